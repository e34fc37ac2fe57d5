"""Alembic's entry: runs the migrations on the connection that mmsearch.store.engine hands over."""

from alembic import context

from mmsearch.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
