"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

#: SQLite gives an autoincrementing key only to INTEGER.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "content",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("hidden", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_content")),
        sa.UniqueConstraint("modality", "hash", name=op.f("uq_content_modality_hash")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_content_hidden", "content", ["modality"], unique=False, sqlite_where=sa.text("hidden")
    )
    op.create_table(
        "source",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("location", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("exclude", sa.JSON(), nullable=False),
        sa.Column("follow_links", sa.Boolean(), nullable=False),
        sa.Column("indexed_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source")),
        sa.UniqueConstraint("location", name=op.f("uq_source_location")),
    )
    op.create_table(
        "space",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("preprocessing", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_space")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_space_fingerprint")),
    )
    op.create_table(
        "state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_state")),
    )
    op.create_table(
        "container",
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("space_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["source_id"], ["source.id"], name=op.f("fk_container_source_id")),
        sa.ForeignKeyConstraint(["space_id"], ["space.id"], name=op.f("fk_container_space_id")),
        sa.PrimaryKeyConstraint("source_id", "path", name=op.f("pk_container")),
    )
    op.create_table(
        "embedding",
        sa.Column("seq", BIG_KEY, nullable=False),
        sa.Column("space_id", sa.Integer(), nullable=False),
        sa.Column("content_id", BIG_KEY, nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["content_id"], ["content.id"], name=op.f("fk_embedding_content_id")
        ),
        sa.ForeignKeyConstraint(["space_id"], ["space.id"], name=op.f("fk_embedding_space_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_embedding")),
        sa.UniqueConstraint(
            "space_id", "content_id", name=op.f("uq_embedding_space_id_content_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "failure",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("member", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("transient", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["source_id"], ["source.id"], name=op.f("fk_failure_source_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_failure")),
        sa.UniqueConstraint(
            "source_id", "path", "member", "key", name=op.f("uq_failure_source_id_path_member_key")
        ),
    )
    op.create_table(
        "image",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("member", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("content_id", BIG_KEY, nullable=False),
        sa.Column("missing_since", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_image_content_id")),
        sa.ForeignKeyConstraint(["source_id"], ["source.id"], name=op.f("fk_image_source_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image")),
        sa.UniqueConstraint(
            "source_id", "path", "member", name=op.f("uq_image_source_id_path_member")
        ),
    )
    op.create_index("ix_image_content_id", "image", ["content_id"], unique=False)
    op.create_index("ix_image_name", "image", ["name"], unique=False)
    op.create_table(
        "passage",
        sa.Column("content_id", BIG_KEY, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_passage_content_id")),
        sa.PrimaryKeyConstraint("content_id", name=op.f("pk_passage")),
    )
    op.create_table(
        "picture",
        sa.Column("content_id", BIG_KEY, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("taken_at", sa.DateTime(), nullable=True),
        sa.Column("camera", sa.Text(), nullable=True),
        sa.Column("latitude", sa.Float(), nullable=True),
        sa.Column("longitude", sa.Float(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("keywords", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_picture_content_id")),
        sa.PrimaryKeyConstraint("content_id", name=op.f("pk_picture")),
    )
    op.create_table(
        "text",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("member", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("content_id", BIG_KEY, nullable=False),
        sa.Column("image_ref", sa.Text(), nullable=True),
        sa.Column("image_id", BIG_KEY, nullable=True),
        sa.Column("missing_since", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["content_id"], ["content.id"], name=op.f("fk_text_content_id")),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_text_image_id")),
        sa.ForeignKeyConstraint(["source_id"], ["source.id"], name=op.f("fk_text_source_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_text")),
        sa.UniqueConstraint(
            "source_id", "path", "member", "key", name=op.f("uq_text_source_id_path_member_key")
        ),
    )
    op.create_index("ix_text_content_id", "text", ["content_id"], unique=False)
    op.create_index("ix_text_image_id", "text", ["image_id"], unique=False)
    op.create_index(
        "ix_text_unlinked",
        "text",
        ["id"],
        unique=False,
        sqlite_where=sa.text("image_ref IS NOT NULL AND image_id IS NULL"),
    )
