"""What the parts of a Google Takeout hold about pictures that may lie in other parts."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

#: SQLite gives an autoincrementing key only to INTEGER.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "takeout_part",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("missing_since", sa.DateTime()),
        sa.Column("told_with", sa.Text()),
        sa.ForeignKeyConstraint(["source_id"], ["source.id"], name="fk_takeout_part_source_id"),
        sa.PrimaryKeyConstraint("id", name="pk_takeout_part"),
        sa.UniqueConstraint("source_id", "path", name="uq_takeout_part_source_id_path"),
    )
    op.create_table(
        "takeout_file",
        sa.Column("part_id", BIG_KEY, nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mark", sa.BigInteger(), nullable=False),
        sa.Column("said", sa.Text()),
        sa.Column("problem", sa.Text()),
        sa.ForeignKeyConstraint(["part_id"], ["takeout_part.id"], name="fk_takeout_file_part_id"),
        sa.PrimaryKeyConstraint("part_id", "folder", "name", name="pk_takeout_file"),
    )
    # Those that were read before are read once more (nothing is encoded again): what they hold
    # about pictures in other parts was passed over.
    op.execute("DELETE FROM container WHERE path LIKE '%takeout-________T______Z%'")
