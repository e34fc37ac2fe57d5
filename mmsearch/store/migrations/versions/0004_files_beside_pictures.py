"""What files beside pictures tell of them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

#: SQLite gives an autoincrementing key only to INTEGER.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

#: Where details come from: what notes that they may have changed.
_TRIGGERS = (
    (
        "CREATE TRIGGER details_image_new AFTER INSERT ON image WHEN new.told IS NOT NULL "
        "BEGIN INSERT INTO details_stale SELECT new.content_id WHERE NOT EXISTS (SELECT 1 "
        "FROM details_stale WHERE content_id = new.content_id); END"
    ),
    (
        "CREATE TRIGGER details_image_gone AFTER DELETE ON image WHEN old.told IS NOT NULL "
        "BEGIN INSERT INTO details_stale SELECT old.content_id WHERE NOT EXISTS (SELECT 1 "
        "FROM details_stale WHERE content_id = old.content_id); END"
    ),
    (
        "CREATE TRIGGER details_image_other AFTER UPDATE OF content_id ON image WHEN old.told "
        "IS NOT NULL AND old.content_id IS NOT new.content_id BEGIN INSERT INTO details_stale "
        "SELECT old.content_id WHERE NOT EXISTS (SELECT 1 FROM details_stale WHERE content_id "
        "= old.content_id); END"
    ),
    (
        "CREATE TRIGGER details_image_changed AFTER UPDATE OF content_id, path, member, "
        "missing_since, told ON image WHEN ifnull(old.told, new.told) IS NOT NULL AND "
        "(old.content_id IS NOT new.content_id OR old.path IS NOT new.path OR old.member IS "
        "NOT new.member OR old.missing_since IS NOT new.missing_since OR old.told IS NOT "
        "new.told) BEGIN INSERT INTO details_stale SELECT new.content_id WHERE NOT EXISTS "
        "(SELECT 1 FROM details_stale WHERE content_id = new.content_id); END"
    ),
)


def upgrade() -> None:
    op.add_column("picture", sa.Column("own", sa.Text()))
    op.add_column("picture", sa.Column("changed", sa.BigInteger()))
    op.create_index(
        "ix_picture_changed", "picture", ["changed"], sqlite_where=sa.text("changed IS NOT NULL")
    )
    op.add_column("image", sa.Column("beside", sa.Text()))
    op.add_column("image", sa.Column("told", sa.Text()))
    op.create_table(
        "details_stale",
        sa.Column("content_id", BIG_KEY, nullable=False),
        sa.PrimaryKeyConstraint("content_id", name="pk_details_stale"),
    )
    for statement in _TRIGGERS:
        op.execute(statement)
