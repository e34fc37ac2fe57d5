"""A library mirrored into Milvus (https://milvus.io), a server or Milvus Lite's file.

NAME_pictures and NAME_texts are aliases; what they stand for is NAME_pictures_1 or _2, so that what
is built anew, because the model is another one, stands beside what is searched and takes its place
at once. NAME_mirror says what is mirrored. Links between pictures and texts are with the pictures
(text_ids): Milvus has no joins.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from mmsearch.errors import EngineError, RefusedError
from mmsearch.mirror import KINDS, Kind, Mirrored, MirroredPicture, MirroredText

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKEN = "MILVUS_TOKEN"
"""The environment variable of the token, or user:password: better there than in an address."""
# Milvus's own limits.
_MAX_CHARS = 65_535
_MAX_ITEMS = 4_096
_ROWS_A_QUERY = 16_384
_TIMEOUT_S = 60.0
_COMPLETE, _BESIDE = 1, 0
"""The ids of what is noted in NAME_mirror."""


class Milvus:
    """mmsearch.mirror.Engine in collections of a Milvus database."""

    def __init__(self, url: str, name: str) -> None:
        """Connects. url: milvus:FILE, or milvus+http://host:19530/database.

        Raises EngineError.
        """
        address, token, database, shown = _parsed(url)
        self.where = f"{shown}, collections {name}_pictures and {name}_texts"
        self._name = name
        self._secrets = [part for part in (token, token.rpartition(":")[2]) if part]
        self._number = 1
        self._beside = False
        try:
            import pymilvus
        except ImportError as exc:
            raise EngineError(
                "Milvus is reached by pymilvus, which is not installed: "
                "pip install 'mmsearch[milvus]'"
            ) from exc
        # It writes every error to stderr, with a traceback, and raises it all the same.
        # And so does Milvus Lite, of a call that it lacks and can do without (AllocTimestamp).
        for logger in ("pymilvus", "grpc._server"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._types = pymilvus.DataType
        self._error = pymilvus.exceptions.MilvusException
        self._connected = False
        with self._told():
            self._client = pymilvus.MilvusClient(
                address, token=token, db_name=database, timeout=_TIMEOUT_S
            )
        self._connected = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    # --- what is there --------------------------------------------------------------------------

    def mirrored(self) -> Mirrored | None:
        noted = self._noted(_COMPLETE)
        return None if noted is None else noted[0]

    def _noted(self, which: int) -> tuple[Mirrored, int] | None:
        """What is mirrored, and the number of its collections."""
        with self._told():
            if not self._client.has_collection(f"{self._name}_mirror"):
                return None
            self._client.load_collection(f"{self._name}_mirror")
            rows = self._query(f"{self._name}_mirror", f"id == {which}", "noted")
        if not rows:
            return None
        noted = json.loads(rows[0]["noted"])
        return Mirrored(**noted["mirrored"]), int(noted["number"])

    def _note(self, which: int, what: Mirrored) -> None:
        noted = json.dumps({"mirrored": asdict(what), "number": self._number})
        self._client.upsert(
            f"{self._name}_mirror", [{"id": which, "noted": noted, "nothing": [0.0, 1.0]}]
        )

    def begin(self, wanted: Mirrored, *, beside: bool) -> None:
        now, next_ = self._noted(_COMPLETE), self._noted(_BESIDE)
        self._beside = beside
        with self._told():
            for kind in KINDS:
                if f"{self._name}_{kind}" in self._client.list_collections():
                    raise RefusedError(
                        f"{self.where}: there is a collection of that name that is no mirror of a "
                        "library: give the mirror a name of its own with --name"
                    )
            if not beside:
                assert now is not None
                self._number = now[1]
            elif next_ is not None and next_[0].fits(wanted):
                self._number = next_[1]
            else:
                self._number = 2 if now is not None and now[1] == 1 else 1
                self._make(wanted)
            for kind in KINDS:
                self._client.load_collection(self._collection(kind))

    def _make(self, wanted: Mirrored) -> None:
        notes = f"{self._name}_mirror"
        if not self._client.has_collection(notes):
            # Every collection must have vectors.
            fields = {"noted": self._text(), "nothing": self._vector(2)}
            self._create(notes, fields, "nothing")
        self._drop(self._number)
        for kind, fields in (("pictures", self._picture()), ("texts", self._text_row())):
            fields["vector"] = self._vector(wanted.dim)
            self._create(self._collection(kind, self._number), fields, "vector")
        self._note(_BESIDE, wanted)

    def _create(self, name: str, fields: Mapping[str, dict[str, Any]], vector: str) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", self._types.INT64, is_primary=True)
        for field, options in fields.items():
            schema.add_field(field, **options)
        index = self._client.prepare_index_params()
        index.add_index(vector, index_type="AUTOINDEX", metric_type="COSINE")
        self._client.create_collection(name, schema=schema, index_params=index)

    def _drop(self, number: int) -> None:
        for kind in KINDS:
            name = self._collection(kind, number)
            if self._client.has_collection(name):
                for alias in self._client.list_aliases(name)["aliases"]:
                    self._client.drop_alias(alias)
                self._client.drop_collection(name)

    def _collection(self, kind: str, number: int | None = None) -> str:
        return f"{self._name}_{kind}_{number or self._number}"

    def _text(self, **options: Any) -> dict[str, Any]:
        return {"datatype": self._types.VARCHAR, "max_length": _MAX_CHARS, **options}

    def _vector(self, dim: int) -> dict[str, Any]:
        return {"datatype": self._types.FLOAT_VECTOR, "dim": dim}

    def _list(self, of: Any, **options: Any) -> dict[str, Any]:
        several = {"datatype": self._types.ARRAY, "element_type": of, "max_capacity": _MAX_ITEMS}
        return several | options

    def _picture(self) -> dict[str, dict[str, Any]]:
        maybe = self._text(nullable=True)
        texts = self._list(self._types.VARCHAR, max_length=_MAX_CHARS)
        number = {"datatype": self._types.INT64}
        degrees = {"datatype": self._types.DOUBLE, "nullable": True}
        return {
            "path": self._text(),
            "copies": texts,
            "hash": self._text(),
            "bytes": number,
            "format": self._text(),
            "width": number,
            "height": number,
            "taken_at": maybe,
            "camera": maybe,
            "title": maybe,
            "description": maybe,
            "keywords": texts,
            "tags": texts,
            "caption": maybe,
            "latitude": degrees,
            "longitude": degrees,
            "text_ids": self._list(self._types.INT64),
            "digest": self._text(),
        }

    def _text_row(self) -> dict[str, dict[str, Any]]:
        tags = self._list(self._types.VARCHAR, max_length=_MAX_CHARS)
        names = ("body", "source", "hash", "digest")
        return {name: self._text() for name in names} | {"tags": tags}

    # --- rows -----------------------------------------------------------------------------------

    def held(self, kind: Kind, after: int, up_to: int) -> dict[int, str]:
        if after >= up_to:
            return {}
        with self._told():
            rows = self._query(self._collection(kind), f"id > {after} and id <= {up_to}", "digest")
        if len(rows) < _ROWS_A_QUERY:
            return {int(row["id"]): row["digest"] for row in rows}
        # As many as it gives at once: there may be more.
        middle = (after + up_to) // 2
        return self.held(kind, after, middle) | self.held(kind, middle, up_to)

    def _query(self, collection: str, filter_: str, field: str) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self._client.query(
            collection,
            filter=filter_,
            output_fields=["id", field],
            limit=_ROWS_A_QUERY,
            consistency_level="Strong",
        )
        return found

    def put_pictures(self, rows: Sequence[MirroredPicture], vectors: NDArray[np.float16]) -> None:
        self._put("pictures", rows, vectors)

    def put_texts(self, rows: Sequence[MirroredText], vectors: NDArray[np.float16]) -> None:
        self._put("texts", rows, vectors)

    def _put(
        self,
        kind: Kind,
        rows: Sequence[MirroredPicture | MirroredText],
        vectors: NDArray[np.float16],
    ) -> None:
        values = [
            {name: _fitting(value) for name, value in asdict(row).items()} | {"vector": vector}
            for row, vector in zip(rows, vectors.astype("float32"), strict=True)
        ]
        for value in values:
            if value.get("taken_at") is not None:
                value["taken_at"] = value["taken_at"].isoformat()
        with self._told():
            self._client.upsert(self._collection(kind), values)

    def delete(self, kind: Kind, ids: Sequence[int]) -> None:
        with self._told():
            self._client.delete(self._collection(kind), ids=list(ids))

    # --- the end --------------------------------------------------------------------------------

    def finish(self, done: Mirrored) -> None:
        with self._told():
            if self._beside:
                for kind in KINDS:
                    self._point(f"{self._name}_{kind}", self._collection(kind))
            self._note(_COMPLETE, done)
            self._client.delete(f"{self._name}_mirror", ids=[_BESIDE])
            self._drop(3 - self._number)

    def _point(self, alias: str, collection: str) -> None:
        """Lets the alias stand for the collection."""
        for number in (1, 2):
            other = f"{alias}_{number}"
            if (
                self._client.has_collection(other)
                and alias in self._client.list_aliases(other)["aliases"]
            ):
                self._client.alter_alias(collection, alias)
                return
        self._client.create_alias(collection, alias)

    # --- errors ---------------------------------------------------------------------------------

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._error as exc:
            said = " ".join(str(exc.message or exc).split())
            for secret in self._secrets:
                said = said.replace(secret, "***")
            advice = _AGAIN if self._connected else _CONNECT
            raise EngineError(f"{self.where}: {said[:300].rstrip('.')}. {advice}") from None


_AGAIN = "What was sent is kept: the same command goes on from there"
_CONNECT = (
    f"Is it running there, and may you connect? A token, or user:password, is taken from {TOKEN}"
)


def _parsed(url: str) -> tuple[str, str, str, str]:
    """The address as pymilvus takes it, the token, the database, and the place for people."""
    scheme, _, rest = url.partition(":")
    if scheme == "milvus":
        path = Path(rest.removeprefix("//")).expanduser().absolute()
        if path.suffix != ".db" or not path.parent.is_dir():
            raise EngineError(
                f"Milvus Lite keeps a mirror in a file whose name ends in .db, in a folder that is "
                f"there: milvus:{path.with_suffix('.db')}"
            )
        return str(path), "", "", f"milvus:{path}"
    try:
        parts = urlsplit(url.removeprefix("milvus+"))
        port = parts.port or 19530
    except ValueError:
        parts, port = urlsplit(""), 0
    if not parts.hostname:
        # What was typed is not repeated: there may be a password in it.
        raise EngineError(
            "the address is not understood: write it as milvus+http://host:19530/database, or "
            "milvus:FILE.db"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    named, _, at = parts.netloc.rpartition("@")
    token = unquote(named) if at and named else os.environ.get(TOKEN, "")
    database = parts.path.strip("/")
    place = f"{parts.scheme}://{host}:{port}"
    return place, token.removeprefix(":"), database, f"milvus+{place}/{database}".rstrip("/")


def _fitting(value: Any) -> Any:
    """A value as Milvus takes it: of lists the first 4,096, of strings 65,535 bytes, which paths
    and texts are shorter than."""
    if isinstance(value, tuple):
        return [_fitting(item) for item in value[:_MAX_ITEMS]]
    if isinstance(value, str) and len(value) > _MAX_CHARS // 4:
        return value.encode()[:_MAX_CHARS].decode(errors="ignore")
    return value
