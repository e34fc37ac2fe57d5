"""Sources have names."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "source", sa.Column("name", sa.Text(), nullable=False, server_default=sa.text("''"))
    )
    connection = op.get_bind()
    taken: set[str] = set()
    rows = connection.execute(sa.text("SELECT id, location FROM source ORDER BY id")).all()
    for id_, location in rows:
        wanted = location.rstrip("/").rpartition("/")[2] or location
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted} {number}"
        taken.add(name)
        connection.execute(
            sa.text("UPDATE source SET name = :name WHERE id = :id"), {"name": name, "id": id_}
        )
    op.create_index("ix_source_name", "source", ["name"], unique=True)
