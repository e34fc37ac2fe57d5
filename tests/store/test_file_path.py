"""File names of any bytes go into the catalog and come out again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st

from mmsearch.store.schema import FilePath

names = st.one_of(
    st.binary(max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.encode),
    # The private characters that stand for bytes in the catalog, in a name of their own.
    st.text(st.characters(min_codepoint=0xF770, max_codepoint=0xF810), max_size=5).map(str.encode),
).map(lambda data: data.decode("utf-8", "surrogateescape"))

table = sa.Table("name", sa.MetaData(), sa.Column("path", FilePath, primary_key=True))


@pytest.fixture(scope="module")
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as opened:
        table.create(opened)
        yield opened
    engine.dispose()


@given(first=names, second=names)
@example("caf\udce9.jpg", "caf\uf7e9.jpg")
@example("\udcef\udc9e.jpg", "\uf780.jpg")
def test_round_trip(connection: sa.Connection, first: str, second: str) -> None:
    connection.execute(sa.delete(table))
    connection.execute(sa.insert(table), [{"path": name} for name in {first, second}])
    assert set(connection.execute(sa.select(table.c.path)).scalars()) == {first, second}
    for name in (first, second):
        found = connection.execute(sa.select(table.c.path).where(table.c.path == name)).scalars()
        assert found.all() == [name]


@given(prefix=names.filter(lambda name: not name.endswith("\x00")), name=names)
def test_parts_can_be_joined(connection: sa.Connection, prefix: str, name: str) -> None:
    """What the adoption of a source inside another does."""
    connection.execute(sa.delete(table))
    connection.execute(sa.insert(table), [{"path": name}])
    joined = sa.cast(sa.literal(prefix + "/", FilePath), sa.Text) + table.c.path
    connection.execute(sa.update(table).values(path=joined))
    assert connection.execute(sa.select(table.c.path)).scalar() == f"{prefix}/{name}"


def test_surrogates_that_no_file_has_do_not_stop_a_run(connection: sa.Connection) -> None:
    connection.execute(sa.delete(table))
    connection.execute(sa.insert(table), [{"path": "a\ud800b.jpg"}])
    assert connection.execute(sa.select(table.c.path)).scalar() == "a\ufffdb.jpg"
