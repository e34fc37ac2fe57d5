"""When pictures came, tags, and words.

The words themselves are written by mmsearch.store.engine.prepare, in the same transaction: here all
contents are only noted as stale.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

#: SQLite gives an autoincrementing key only to INTEGER.
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

FOLDER = (
    "CASE member WHEN '' THEN rtrim(path, replace(path, '/', '')) "
    "ELSE path || '!/' || rtrim(member, replace(member, '/', '')) END"
)

#: Where words come from: what notes that they may have changed.
_WORDS = (
    (
        "CREATE VIRTUAL TABLE image_words USING fts5(names, folders, about, tokenize='ascii', "
        "columnsize=0)"
    ),
    ("CREATE VIRTUAL TABLE text_words USING fts5(body, tokenize='ascii', columnsize=0)"),
    (
        "CREATE TRIGGER words_image_new AFTER INSERT ON image BEGIN INSERT INTO words_stale "
        "SELECT new.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE content_id = "
        "new.content_id); END"
    ),
    (
        "CREATE TRIGGER words_image_gone AFTER DELETE ON image BEGIN INSERT INTO words_stale "
        "SELECT old.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE content_id = "
        "old.content_id); END"
    ),
    (
        "CREATE TRIGGER words_image_other AFTER UPDATE OF content_id ON image WHEN "
        "old.content_id IS NOT new.content_id BEGIN INSERT INTO words_stale SELECT "
        "old.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE content_id = "
        "old.content_id); END"
    ),
    (
        "CREATE TRIGGER words_image_changed AFTER UPDATE OF content_id, source_id, path, "
        "member, name, missing_since ON image WHEN old.content_id IS NOT new.content_id OR "
        "old.source_id IS NOT new.source_id OR old.path IS NOT new.path OR old.member IS NOT "
        "new.member OR old.name IS NOT new.name OR old.missing_since IS NOT new.missing_since "
        "BEGIN INSERT INTO words_stale SELECT new.content_id WHERE NOT EXISTS (SELECT 1 FROM "
        "words_stale WHERE content_id = new.content_id); END"
    ),
    (
        "CREATE TRIGGER words_picture_new AFTER INSERT ON picture BEGIN INSERT INTO "
        "words_stale SELECT new.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE "
        "content_id = new.content_id); END"
    ),
    (
        "CREATE TRIGGER words_picture_gone AFTER DELETE ON picture BEGIN INSERT INTO "
        "words_stale SELECT old.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE "
        "content_id = old.content_id); END"
    ),
    (
        "CREATE TRIGGER words_picture_changed AFTER UPDATE OF camera, taken_at ON picture "
        "WHEN old.camera IS NOT new.camera OR old.taken_at IS NOT new.taken_at BEGIN INSERT "
        "INTO words_stale SELECT new.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale "
        "WHERE content_id = new.content_id); END"
    ),
    (
        "CREATE TRIGGER words_passage_new AFTER INSERT ON passage BEGIN INSERT INTO "
        "words_stale SELECT new.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE "
        "content_id = new.content_id); END"
    ),
    (
        "CREATE TRIGGER words_passage_gone AFTER DELETE ON passage BEGIN INSERT INTO "
        "words_stale SELECT old.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE "
        "content_id = old.content_id); END"
    ),
    (
        "CREATE TRIGGER words_passage_changed AFTER UPDATE OF body ON passage WHEN old.body "
        "IS NOT new.body BEGIN INSERT INTO words_stale SELECT new.content_id WHERE NOT EXISTS "
        "(SELECT 1 FROM words_stale WHERE content_id = new.content_id); END"
    ),
    (
        "CREATE TRIGGER words_tag_new AFTER INSERT ON tag BEGIN INSERT INTO words_stale "
        "SELECT new.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE content_id = "
        "new.content_id); END"
    ),
    (
        "CREATE TRIGGER words_tag_gone AFTER DELETE ON tag BEGIN INSERT INTO words_stale "
        "SELECT old.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE content_id = "
        "old.content_id); END"
    ),
    (
        "CREATE TRIGGER words_tag_changed AFTER UPDATE OF name, score ON tag WHEN old.name IS NOT "
        "new.name OR old.score IS NOT new.score BEGIN INSERT INTO words_stale SELECT "
        "new.content_id WHERE NOT EXISTS (SELECT 1 FROM words_stale WHERE content_id = "
        "new.content_id); END"
    ),
    (
        "CREATE TRIGGER words_content_changed AFTER UPDATE OF hidden ON content WHEN "
        "old.hidden IS NOT new.hidden BEGIN INSERT INTO words_stale SELECT new.id WHERE NOT "
        "EXISTS (SELECT 1 FROM words_stale WHERE content_id = new.id); END"
    ),
    (
        "CREATE TRIGGER words_source_changed AFTER UPDATE OF name ON source WHEN old.name IS "
        "NOT new.name BEGIN INSERT INTO words_stale SELECT DISTINCT content_id FROM image "
        "WHERE source_id = new.id AND content_id NOT IN (SELECT content_id FROM words_stale); "
        "END"
    ),
)


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
    op.add_column("image", sa.Column("folder", sa.Text(), sa.Computed(FOLDER, persisted=False)))
    op.create_index(
        "ix_image_folder",
        "image",
        ["source_id", "folder", "name", "content_id"],
        sqlite_where=sa.text("missing_since IS NULL"),
    )
    op.create_table(
        "words_stale",
        sa.Column("content_id", BIG_KEY, nullable=False),
        sa.PrimaryKeyConstraint("content_id", name="pk_words_stale"),
    )
    for statement in _WORDS:
        op.execute(statement)
    op.execute("INSERT INTO words_stale SELECT id FROM content")
