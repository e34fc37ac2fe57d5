"""Embeddings out of a library and into one, in the files that clip-retrieval's inference writes.

    DIR/
      mmsearch.json                       whose vectors these are (ours alone)
      img_emb/img_emb_0.npy               (n, dim) float16, one row a picture
      text_emb/text_emb_0.npy             (n, dim) float16: of the caption in the same row, or zeros
      metadata/metadata_0.parquet         n rows: image_path, caption, ...
      texts/text_emb/text_emb_0.npy       (m, dim) float16, one row a text and picture it is for
      texts/metadata/metadata_0.parquet   m rows: caption, image_path, ...

Row i of one file of a number goes with row i of the others of that number. The upper three are
pairs, as clip-retrieval has them, where a picture has one caption, the first; `texts`, which is
the same layout without pictures, holds every text of the library: all captions of a picture, and
texts that belong to none.
"""
