"""The vector index: FAISS. Derived from the catalog, rebuilt from it whenever in doubt."""
