"""The tables, and the column types that SQLite lacks.

Content, not path, is what is embedded: `content` is a run of bytes (a picture) or characters (a
text) known by its hash; `image` and `text` are the places where it was found. Copies, renames and
moves therefore cost no encoding.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Index, MetaData, Table, UniqueConstraint, text

#: The newest migration this code knows; a test ties it to the migration scripts.
SCHEMA_HEAD = "0005"


_BYTES = range(0xDC80, 0xDD00)
_FROM_STORED = {code - 0xDC80 + 0xF780: code for code in _BYTES}
_TO_STORED: dict[int, int | str] = {code: stored for stored, code in _FROM_STORED.items()}
# Characters of that range in a name are stored as their own three bytes: nothing else is.
_TO_STORED |= {
    code: "".join(chr(0xF700 + byte) for byte in chr(code).encode()) for code in _FROM_STORED
}
# Other lone surrogates are in no file's name, but texts may claim them.
_TO_STORED |= {c: 0xFFFD for c in range(0xD800, 0xE000) if c not in _BYTES}


def stored_path(name: str) -> str:
    """What a FilePath column holds for a name."""
    return name if name.isascii() else name.translate(_TO_STORED)


def stored_time(moment: datetime) -> str:
    """What a DateTime column holds for a moment without a zone."""
    return moment.isoformat(" ", "microseconds")


class FilePath(sa.types.TypeDecorator[str]):
    """A file name as Python has it, bytes outside UTF-8 included.

    Such bytes arrive as lone surrogates (U+DC80 to U+DCFF, PEP 383), which no database stores as
    text. They are kept as the private-use characters U+F780 to U+F7FF, the mapping that the MirBSD
    and Linux "U+F7xx" conventions use, so the column stays readable, sortable and comparable.
    """

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value if value is None else stored_path(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is None or value.isascii():
            return value
        # Through bytes, so that the three bytes of one character become it again.
        data = value.translate(_FROM_STORED).encode("utf-8", "surrogateescape")
        return data.decode("utf-8", "surrogateescape")


#: SQLite gives an autoincrementing key only to INTEGER, never to BIGINT.
BigKey = sa.BigInteger().with_variant(sa.Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: One row. `revision` grows with every committed change: readers compare it to notice.
state = Table(
    "state",
    metadata,
    Column("id", sa.Integer, primary_key=True),
    Column("revision", sa.BigInteger, nullable=False),
)

space = Table(
    "space",
    metadata,
    Column("id", sa.Integer, primary_key=True),
    Column("name", sa.Text, nullable=False),
    Column("dim", sa.Integer, nullable=False),
    Column("fingerprint", sa.Text, nullable=False, unique=True),
    Column("preprocessing", sa.Text, nullable=False),
    Column("active", sa.Boolean, nullable=False),
    Column("created_at", sa.DateTime, nullable=False),
)

source = Table(
    "source",
    metadata,
    Column("id", sa.Integer, primary_key=True),
    Column("location", FilePath, nullable=False, unique=True),
    Column("name", FilePath, nullable=False, server_default=text("''")),  # what people call it
    Column("kind", sa.Text, nullable=False),  # "folder" or "file"
    Column("exclude", sa.JSON, nullable=False),
    Column("follow_links", sa.Boolean, nullable=False),
    Column("indexed_at", sa.DateTime),
    Index("ix_source_name", "name", unique=True),
)

content = Table(
    "content",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("modality", sa.Text, nullable=False),
    Column("hash", sa.LargeBinary(32), nullable=False),
    # True when no file holds it any more. Kept beside the rows it follows from so that the few
    # hidden contents of a large library are found without reading the many visible ones.
    Column("hidden", sa.Boolean, nullable=False, server_default=sa.false()),
    UniqueConstraint("modality", "hash"),
    Index("ix_content_hidden", "modality", sqlite_where=text("hidden")),
    sqlite_autoincrement=True,  # an id is never given twice: an index may still hold the old one
)

#: The condition as the partial index has it: SQLite does not see that "hidden = 1", which is what
#: the column alone is written as, means the same.
IS_HIDDEN = text("content.hidden")

picture = Table(
    "picture",
    metadata,
    Column("content_id", BigKey, ForeignKey("content.id"), primary_key=True),
    Column("bytes", sa.BigInteger, nullable=False),
    Column("format", sa.Text, nullable=False),
    Column("width", sa.Integer, nullable=False),
    Column("height", sa.Integer, nullable=False),
    Column("taken_at", sa.DateTime),
    Column("camera", sa.Text),
    Column("latitude", sa.Float),
    Column("longitude", sa.Float),
    Column("title", sa.Text),
    Column("description", sa.Text),
    Column("keywords", sa.JSON, nullable=False),
    # When it first came into the library, in UTC; NULL for what came before the column did.
    Column("added_at", sa.DateTime),
    # What it says of itself, while files beside it tell something else (mmsearch.store.details).
    Column("own", sa.Text),
    # The revision that last made these details others; NULL: they are as they came.
    Column("changed", sa.BigInteger),
    Index("ix_picture_changed", "changed", sqlite_where=text("changed IS NOT NULL")),
)

passage = Table(
    "passage",
    metadata,
    Column("content_id", BigKey, ForeignKey("content.id"), primary_key=True),
    Column("body", sa.Text, nullable=False),
)

#: A picture file, or a member of an archive (`member` is "" for a plain file).
image = Table(
    "image",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("source_id", sa.Integer, ForeignKey("source.id"), nullable=False),
    Column("path", FilePath, nullable=False),
    Column("member", FilePath, nullable=False),
    Column("name", FilePath, nullable=False),
    Column("size", sa.BigInteger, nullable=False),
    Column("mtime_ns", sa.BigInteger, nullable=False),
    Column("content_id", BigKey, ForeignKey("content.id"), nullable=False),
    Column("missing_since", sa.DateTime),
    # The files beside it that tell of it, as they were read ("" or NULL: none; "?": they are to be
    # read again), and what they tell.
    Column("beside", sa.Text),
    Column("told", sa.Text),
    # As people see it, up to the last slash: "2019/", "2019/a.zip!/", "" at the top of its source.
    Column(
        "folder",
        FilePath,
        sa.Computed(
            "CASE member WHEN '' THEN rtrim(path, replace(path, '/', '')) "
            "ELSE path || '!/' || rtrim(member, replace(member, '/', '')) END",
            persisted=False,
        ),
    ),
    UniqueConstraint("source_id", "path", "member"),
    Index("ix_image_content_id", "content_id"),
    Index("ix_image_name", "name"),
    # All that filters ask of a place: the folders are looked at first, then the files in some.
    Index(
        "ix_image_folder",
        "source_id",
        "folder",
        "name",
        "content_id",
        sqlite_where=text("missing_since IS NULL"),
    ),
    Index("ix_image_gone", "source_id", "path", sqlite_where=text("missing_since IS NOT NULL")),
)

#: A text: line `key` of a file, a sidecar, or what a picture says of itself (`origin`).
text_ = Table(
    "text",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("source_id", sa.Integer, ForeignKey("source.id"), nullable=False),
    Column("path", FilePath, nullable=False),
    Column("member", FilePath, nullable=False),
    Column("key", sa.Text, nullable=False),
    Column("origin", sa.Text, nullable=False),  # "file", "sidecar" or "embedded"
    Column("content_id", BigKey, ForeignKey("content.id"), nullable=False),
    Column("image_ref", FilePath),  # the picture it names, as written
    Column("image_id", BigKey, ForeignKey("image.id")),
    Column("missing_since", sa.DateTime),
    UniqueConstraint("source_id", "path", "member", "key"),
    Index("ix_text_content_id", "content_id"),
    Index("ix_text_image_id", "image_id"),
    Index(
        "ix_text_unlinked", "id", sqlite_where=text("image_ref IS NOT NULL AND image_id IS NULL")
    ),
    Index("ix_text_gone", "source_id", "path", sqlite_where=text("missing_since IS NOT NULL")),
)

#: Of what is gone, which is little of a library: found without reading the rest. No migration makes
#: them but whoever writes (CatalogWriter): they change nothing but how long it takes, and a library
#: that cannot be written now is read on without them.
ADDED_INDEXES = [
    index
    for table in (image, text_)
    for index in table.indexes
    if index.name in ("ix_image_gone", "ix_text_gone")
]

#: What people, or `mmsearch classify`, call a picture or a text. score: the probability, if any.
tag = Table(
    "tag",
    metadata,
    Column("content_id", BigKey, ForeignKey("content.id"), primary_key=True),
    Column("name", sa.Text, primary_key=True),
    Column("score", sa.Float),
    Index("ix_tag_name", "name", "content_id"),
)

#: `seq` grows with every insert, so "what came after" needs no look at what was there.
embedding = Table(
    "embedding",
    metadata,
    Column("seq", BigKey, primary_key=True),
    Column("space_id", sa.Integer, ForeignKey("space.id"), nullable=False),
    Column("content_id", BigKey, ForeignKey("content.id"), nullable=False),
    Column("vector", sa.LargeBinary, nullable=False),  # dim × float16, little-endian, unit norm
    UniqueConstraint("space_id", "content_id"),
    sqlite_autoincrement=True,
)

#: Archives and text files that were read to their end, so that they need not be read again.
container = Table(
    "container",
    metadata,
    Column("source_id", sa.Integer, ForeignKey("source.id"), primary_key=True),
    Column("path", FilePath, primary_key=True),
    Column("size", sa.BigInteger, nullable=False),
    Column("mtime_ns", sa.BigInteger, nullable=False),
    # The space its texts and members were embedded in: another space must read it again.
    Column("space_id", sa.Integer, ForeignKey("space.id"), nullable=False),
)

#: A part of an export that Google Takeout wrote as several archives, as long as anything is kept of
#: it: what it holds about pictures may be about those in other parts (mmsearch.store.parts).
takeout_part = Table(
    "takeout_part",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("source_id", sa.Integer, ForeignKey("source.id"), nullable=False),
    Column("path", FilePath, nullable=False),
    Column("missing_since", sa.DateTime),
    # All parts of the export, as they were when their pictures were last told what the files among
    # them tell; NULL: that is still to be done.
    Column("told_with", sa.Text),
    UniqueConstraint("source_id", "path"),
)

#: A file about a picture in such a part. folder: "" or with a slash at its end. mark: the CRC-32 of
#: its bytes. said: what it tells (`indexer.beside.said`); NULL: it cannot be used (`problem`).
takeout_file = Table(
    "takeout_file",
    metadata,
    Column("part_id", BigKey, ForeignKey("takeout_part.id"), primary_key=True),
    Column("folder", FilePath, primary_key=True),
    Column("name", FilePath, primary_key=True),
    Column("size", sa.BigInteger, nullable=False),
    Column("mark", sa.BigInteger, nullable=False),
    Column("said", sa.Text),
    Column("problem", sa.Text),
)

#: Input that could not be used. `transient`: worth another try though the file is the same.
failure = Table(
    "failure",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("source_id", sa.Integer, ForeignKey("source.id"), nullable=False),
    Column("path", FilePath, nullable=False),
    Column("member", FilePath, nullable=False),
    Column("key", sa.Text, nullable=False),
    Column("size", sa.BigInteger, nullable=False),
    Column("mtime_ns", sa.BigInteger, nullable=False),
    Column("reason", sa.Text, nullable=False),
    Column("transient", sa.Boolean, nullable=False),
    Column("at", sa.DateTime, nullable=False),
    UniqueConstraint("source_id", "path", "member", "key"),
)

#: Contents whose words are not up to date. Filled by triggers, emptied before each commit; they and
#: the tables of words, which SQLAlchemy cannot describe, are in mmsearch.store.word_rows.
words_stale = Table(
    "words_stale",
    metadata,
    Column("content_id", BigKey, primary_key=True),
)

#: Pictures whose details are to be put together anew. Filled by triggers, emptied before each
#: commit (mmsearch.store.details).
details_stale = Table(
    "details_stale",
    metadata,
    Column("content_id", BigKey, primary_key=True),
)

_scratch = MetaData()

#: What the scan of one source found. Temporary: it lives and dies with the writer's connection.
seen = Table(
    "seen",
    _scratch,
    Column("id", sa.Integer, primary_key=True),
    Column("path", FilePath, nullable=False, unique=True),
    Column("kind", sa.Text, nullable=False),
    Column("size", sa.BigInteger, nullable=False),
    Column("mtime_ns", sa.BigInteger, nullable=False),
    Column("of", FilePath),
    Column("beside", sa.Text),  # of a picture, as in image; NULL: could not be looked at
    prefixes=["TEMPORARY"],
)

#: What was met inside the containers read in this run: members of archives, keys of text files.
seen_part = Table(
    "seen_part",
    _scratch,
    Column("path", FilePath, primary_key=True),
    Column("member", FilePath, primary_key=True),
    Column("key", sa.Text, primary_key=True),
    prefixes=["TEMPORARY"],
)

#: The batch that is being written: its places and contents, looked up all at once. `n`: position.
incoming = Table(
    "incoming",
    _scratch,
    Column("n", sa.Integer, primary_key=True),
    Column("source_id", sa.Integer, nullable=False),
    Column("path", FilePath, nullable=False),
    Column("member", FilePath, nullable=False),
    Column("key", sa.Text, nullable=False),
    Column("hash", sa.LargeBinary, nullable=False),
    prefixes=["TEMPORARY"],
)
scratch_tables = (seen, seen_part, incoming)
