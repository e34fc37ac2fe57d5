"""When pictures came, and tags."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

#: SQLite gives an autoincrementing key only to INTEGER.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("picture", sa.Column("added_at", sa.DateTime()))
    op.create_table(
        "tag",
        sa.Column("content_id", BIG_KEY, sa.ForeignKey("content.id"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("score", sa.Float()),
        sa.PrimaryKeyConstraint("content_id", "name", name="pk_tag"),
    )
    op.create_index("ix_tag_name", "tag", ["name", "content_id"])
