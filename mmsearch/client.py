"""A library behind `mmsearch serve`, from another program: `Client`, and `AsyncClient` for asyncio.

    from mmsearch import Client

    with Client("http://photos.lan:8080", key) as photos:
        for hit in photos.search("a red kite over a beach", k=5):
            print(f"{hit.score:.3f} {hit.image.path}")

The answers are those of `mmsearch.open(...)`; what goes wrong is a RemoteError with the service's
own words. A service that has too much to do for a moment (503, 429) is asked again when it says so.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

import httpx

import mmsearch
from mmsearch.overhttp import (
    BUSY,
    KeyRefusedError,
    RemoteError,
    UnreachableError,
    error_of,
    form,
    image_answer,
    image_record,
    read_picture,
    search_call,
    text_answer,
)
from mmsearch.query import Question, Term, picture_id, several, whole
from mmsearch.types import Answer, ImageHit, ImageRecord, TextHit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    #: The model's name, and (n, dim).
    _Vectors = tuple[str, NDArray[np.float32]]

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_TIMEOUT_S = 60.0
#: How often a busy service is asked again, and how long at most between two times.
RETRIES = 4
_MAX_PAUSE_S = 10.0
#: What one request for vectors holds: all that any service takes.
_TEXTS_AT_ONCE = 256
_PICTURES_AT_ONCE = 16
_LETTERS_AT_ONCE = 256 << 10


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """A request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    content_type: str = "application/json"
    json: Any = None


# --- what both clients can ask --------------------------------------------------------------------


def _document(response: httpx.Response) -> Any:
    return response.json()


def _question(
    query: str | None, image: str | Path | bytes | None, k: int, offset: int, options: Any
) -> Question:
    terms = [] if image is None else [Term(image=image)]
    if query and query.strip():
        terms.append(Term(text=query))
    where = options.get("where")
    if isinstance(where, str):
        from mmsearch import filters

        options = {**options, "where": filters.parse(where)}
    return Question(tuple(terms), k=k, offset=offset, **options)


def _ask(question: Question) -> _Call[Answer[ImageHit]]:
    path, body, kind = search_call(question, "image")

    def read(response: httpx.Response) -> Answer[ImageHit]:
        return image_answer(response.json(), question)

    return _Call("POST", path, read, content=body, content_type=kind)


def _ask_texts(question: Question) -> _Call[Answer[TextHit]]:
    path, body, kind = search_call(question, "text")

    def read(response: httpx.Response) -> Answer[TextHit]:
        return text_answer(response.json(), question)

    return _Call("POST", path, read, content=body, content_type=kind)


def _image(image_id: int) -> _Call[ImageRecord]:
    path = f"/v1/images/{picture_id(image_id)}"
    return _Call("GET", path, lambda response: image_record(response.json()))


def _bytes(image_id: int, what: str, params: Mapping[str, Any]) -> _Call[bytes]:
    path = f"/v1/images/{picture_id(image_id)}/{what}"
    return _Call("GET", path, lambda response: response.content, params)


def _embed(texts: Sequence[str]) -> Iterator[_Call[_Vectors]]:
    # As objects: a string may be taken for a picture, if it looks like a data URL.
    items = [({"text": text}, len(text)) for text in several(texts, "texts")]
    return _embedded(items, _TEXTS_AT_ONCE)


def _embed_images(images: Sequence[str | Path | bytes]) -> Iterator[_Call[_Vectors]]:
    given = several(images, "pictures")

    def items() -> Iterator[tuple[dict[str, str], int]]:
        for image in given:
            encoded = base64.b64encode(read_picture(image)[1]).decode("ascii")
            # What kind of picture it is, the service finds out by itself.
            yield {"image": f"data:image/*;base64,{encoded}"}, len(encoded)

    return _embedded(items(), _PICTURES_AT_ONCE)


def _embedded(items: Iterable[tuple[dict[str, str], int]], most: int) -> Iterator[_Call[_Vectors]]:
    """The calls that have these items embedded, each with how long it is: at least one, so many
    items at most in each. Of no items it asks how long vectors are."""
    part: list[dict[str, str]] = []
    total = asked = 0
    for item, size in items:
        if part and (len(part) == most or total + size > _LETTERS_AT_ONCE):
            yield _embeddings(part)
            part, total = [], 0
        part.append(item)
        total += size
        asked += 1
    if part:
        yield _embeddings(part)
    if not asked:
        yield _Call("GET", "/v1/status", _no_vectors)


def _embeddings(items: Sequence[dict[str, str]]) -> _Call[_Vectors]:
    asked = {"input": items, "encoding_format": "base64"}
    return _Call("POST", "/v1/embeddings", _vectors, json=asked)


def _vectors(response: httpx.Response) -> _Vectors:
    import numpy as np

    answer = response.json()
    rows = [base64.b64decode(item["embedding"]) for item in answer["data"]]
    vectors = np.frombuffer(b"".join(rows), "<f4").reshape(len(rows), -1).astype(np.float32)
    return answer["model"], vectors


def _no_vectors(response: httpx.Response) -> _Vectors:
    import numpy as np

    spaces = [space for space in response.json()["spaces"] if space["active"]]
    if not spaces:
        raise RemoteError("the library is empty: it has no vectors yet", status=409)
    return spaces[0]["model"], np.empty((0, spaces[0]["dim"]), np.float32)


def _together(parts: Sequence[_Vectors]) -> NDArray[np.float32]:
    """All the vectors, below each other. Raises RemoteError: they are of several models."""
    import numpy as np

    models = list(dict.fromkeys(model for model, _ in parts))
    if len(models) > 1:
        raise RemoteError(f"the library's model changed meanwhile: {', '.join(models)}. Ask again")
    return np.concatenate([vectors for _, vectors in parts])


def _upload(image: str | Path | bytes, name: str | None, text: str, wait_s: float) -> _Call[Any]:
    own_name, data = read_picture(image)
    body, kind = form({"text": text}, [("file", name or own_name, data)])
    params = {"wait": wait_s}
    return _Call("POST", "/v1/images", _document, params, content=body, content_type=kind)


def _upload_text(text: str, image_id: int | None, wait_s: float) -> _Call[Any]:
    given = {"text": text, "image_id": None if image_id is None else picture_id(image_id)}
    return _Call("POST", "/v1/texts", _document, {"wait": wait_s}, json=given)


def _delete(what: str, item_id: int, wait_s: float) -> _Call[Any]:
    path = f"/v1/{what}/{whole(item_id, 'the id of an item')}"
    return _Call("DELETE", path, _document, {"wait": wait_s})


def _index(source: str | int | None, wait_s: float) -> _Call[Any]:
    return _Call("POST", "/v1/index", _document, {"wait": wait_s}, json={"source": source})


def _base(url: str) -> httpx.URL:
    """The address of a service. Raises RemoteError where it cannot be one."""
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise _no_address(url, exc) from exc
    if base.scheme not in ("http", "https") or not base.host:
        raise _no_address(url, "it does not begin with http:// or https:// and a name")
    return base


def _no_address(url: str, why: object) -> RemoteError:
    return RemoteError(f"{url!r} is no address of a service, such as {DEFAULT_URL}: {why}")


def _headers(key: str | None) -> dict[str, str]:
    key = None if key is None else key.strip()  # as out of a file
    if key is not None and not (key and key.isascii() and key.isprintable()):
        # Not to be shown: it may be nearly right.
        raise KeyRefusedError(
            "the key has characters that no key has, or none at all. Give it as mmsearch keys add "
            "showed it"
        )
    named = {"User-Agent": f"mmsearch/{mmsearch.__version__}"}
    return named | ({} if key is None else {"Authorization": f"Bearer {key}"})


def _request(client: httpx.Client | httpx.AsyncClient, call: _Call[Any]) -> httpx.Request:
    """Raises RemoteError: the client is closed, or there can be no such address."""
    if client.is_closed:
        raise RemoteError("this client was closed; make another one to ask more")
    headers = {} if call.content is None else {"Content-Type": call.content_type}
    try:
        return client.build_request(
            call.method,
            call.path,
            params=dict(call.params),
            content=call.content,
            json=call.json,
            headers=headers,
        )
    except httpx.InvalidURL as exc:
        raise _no_address(call.path, exc) from exc


def _pause(response: httpx.Response, attempt: int) -> float | None:
    """How long to wait before the same is asked again; None where it is answered."""
    if response.status_code not in BUSY or attempt >= RETRIES:
        return None
    if response.status_code == 503 and "retry-after" not in response.headers:
        return None
    try:
        said = float(response.headers.get("retry-after", "1"))
    except ValueError:
        said = 1.0
    return min(max(said, 0.05), _MAX_PAUSE_S)


def _read(call: _Call[T], response: httpx.Response) -> T:
    if response.status_code >= 400:
        raise error_of(response.status_code, response.content, response.headers)
    try:
        return call.read(response)
    except (ValueError, KeyError, TypeError) as exc:
        raise UnreachableError(
            f"what answers at {response.url} is no mmsearch service: {exc}"
        ) from exc


def _unreachable(url: object, exc: httpx.HTTPError) -> UnreachableError:
    why = "it took too long" if isinstance(exc, httpx.TimeoutException) else str(exc) or "no answer"
    return UnreachableError(f"the service at {url} does not answer: {why}. Does it run?")


# --- the two clients ------------------------------------------------------------------------------


class Client:
    """A service, asked by blocking calls. Thread-safe.

    Errors of all calls: RemoteError, as mmsearch.overhttp has them; QueryError and DecodeError for
    what needs no service to be found wrong.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """key: as `mmsearch keys add` shows it. transport: for tests and unusual networks.

        Raises RemoteError: `url` cannot be an address, or `key` (KeyRefusedError) no key.
        """
        self._http = httpx.Client(
            base_url=_base(url), headers=_headers(key), timeout=timeout_s, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the connections; what is asked afterwards raises RemoteError."""
        self._http.close()

    def _send(self, call: _Call[T]) -> T:
        attempt = 0
        while True:
            try:
                response = self._http.send(_request(self._http, call))
            except httpx.HTTPError as exc:
                raise _unreachable(self._http.base_url, exc) from exc
            pause = _pause(response, attempt)
            if pause is None:
                return _read(call, response)
            attempt += 1
            time.sleep(pause)

    def ask(self, question: Question) -> Answer[ImageHit]:
        """The pictures that answer a question. See `Library.ask`."""
        return self._send(_ask(question))

    def ask_texts(self, question: Question) -> Answer[TextHit]:
        """The texts that answer a question. See `Library.ask_texts`."""
        return self._send(_ask_texts(question))

    def search(
        self,
        query: str | None = None,
        *,
        image: str | Path | bytes | None = None,
        k: int = 10,
        offset: int = 0,
        **options: Any,
    ) -> list[ImageHit]:
        """The pictures that answer best to words, a picture, or both. See `Library.search`."""
        return list(self.ask(_question(query, image, k, offset, options)).hits)

    def search_texts(
        self,
        query: str | None = None,
        *,
        image: str | Path | bytes | None = None,
        k: int = 10,
        offset: int = 0,
        **options: Any,
    ) -> list[TextHit]:
        """The texts that answer best. See `Library.search_texts`."""
        return list(self.ask_texts(_question(query, image, k, offset, options)).hits)

    def captions(
        self, image: str | Path | bytes, *, k: int = 5, exact: bool = False
    ) -> list[TextHit]:
        """The texts of the library that describe a picture best; it need not be indexed."""
        return self.search_texts(image=image, k=k, exact=exact)

    def captions_of(self, image_id: int, *, k: int = 5, exact: bool = False) -> list[TextHit]:
        """The same for a picture of the library. See `Library.captions_of`."""
        terms = (Term(image_id=picture_id(image_id)),)
        return list(self.ask_texts(Question(terms, k=k, exact=exact)).hits)

    def similar(
        self, image_id: int, *, k: int = 10, offset: int = 0, exact: bool = False
    ) -> list[ImageHit]:
        """The pictures most like one of the library, without itself."""
        terms = (Term(image_id=picture_id(image_id)),)
        return list(self.ask(Question(terms, k=k, offset=offset, exact=exact)).hits)

    def image(self, image_id: int) -> ImageRecord:
        """What the library knows of a picture."""
        return self._send(_image(image_id))

    def read_image(self, image_id: int) -> bytes:
        """The bytes of the picture's file."""
        return self._send(_bytes(image_id, "file", {}))

    def thumbnail(self, image_id: int, max_side: int = 512) -> bytes:
        """A small WebP of the picture, upright, without metadata."""
        return self._send(_bytes(image_id, "thumbnail", {"size": max_side}))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dim), unit norm: the vectors of texts in the library's space, as many as there are.

        More than one request asks for comes in several. Raises QueryError: `texts` is one text.
        """
        return _together([self._send(call) for call in _embed(texts)])

    def embed_images(self, images: Sequence[str | Path | bytes]) -> NDArray[np.float32]:
        """The same of pictures."""
        return _together([self._send(call) for call in _embed_images(images)])

    def status(self) -> dict[str, Any]:
        """What is being served, as /v1/status says it."""
        return cast(dict[str, Any], self.get("/v1/status"))

    def upload(
        self,
        image: str | Path | bytes,
        *,
        name: str | None = None,
        text: str = "",
        wait_s: float = 30.0,
    ) -> dict[str, Any]:
        """Keeps a picture in the library, with a text if there is one. Needs a key that may write.

        wait_s: how long to wait until it can be found; "image_id" is its id then.
        """
        return cast(dict[str, Any], self._send(_upload(image, name, text, wait_s)))

    def upload_text(
        self, text: str, *, image_id: int | None = None, wait_s: float = 30.0
    ) -> dict[str, Any]:
        """Keeps a text in the library, written for a picture if one is named."""
        return cast(dict[str, Any], self._send(_upload_text(text, image_id, wait_s)))

    def delete(self, image_id: int, *, wait_s: float = 30.0) -> dict[str, Any]:
        """Deletes a picture that was uploaded. Others are refused: status 409."""
        return cast(dict[str, Any], self._send(_delete("images", image_id, wait_s)))

    def delete_text(self, text_id: int, *, wait_s: float = 30.0) -> dict[str, Any]:
        """Deletes a text that was uploaded."""
        return cast(dict[str, Any], self._send(_delete("texts", text_id, wait_s)))

    def index(self, source: str | int | None = None, *, wait_s: float = 0.0) -> list[Any]:
        """Lets a configured source be read again; None: all of them. The runs."""
        return cast(list[Any], self._send(_index(source, wait_s)))

    def get(self, path: str, **params: Any) -> Any:
        """The JSON that any route answers with."""
        return self._send(_Call("GET", path, _document, params))

    def post(self, path: str, json: Any, **params: Any) -> Any:
        """The same for a route that takes JSON, such as /v1/classify."""
        return self._send(_Call("POST", path, _document, params, json=json))


class AsyncClient:
    """The same calls for asyncio."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See `Client`."""
        self._http = httpx.AsyncClient(
            base_url=_base(url), headers=_headers(key), timeout=timeout_s, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._http.aclose()

    async def _send(self, call: _Call[T]) -> T:
        attempt = 0
        while True:
            try:
                response = await self._http.send(_request(self._http, call))
            except httpx.HTTPError as exc:
                raise _unreachable(self._http.base_url, exc) from exc
            pause = _pause(response, attempt)
            if pause is None:
                return _read(call, response)
            attempt += 1
            await asyncio.sleep(pause)

    async def ask(self, question: Question) -> Answer[ImageHit]:
        """See `Client.ask`."""
        return await self._send(_ask(question))

    async def ask_texts(self, question: Question) -> Answer[TextHit]:
        """See `Client.ask_texts`."""
        return await self._send(_ask_texts(question))

    async def search(
        self,
        query: str | None = None,
        *,
        image: str | Path | bytes | None = None,
        k: int = 10,
        offset: int = 0,
        **options: Any,
    ) -> list[ImageHit]:
        """See `Client.search`."""
        return list((await self.ask(_question(query, image, k, offset, options))).hits)

    async def search_texts(
        self,
        query: str | None = None,
        *,
        image: str | Path | bytes | None = None,
        k: int = 10,
        offset: int = 0,
        **options: Any,
    ) -> list[TextHit]:
        """See `Client.search_texts`."""
        return list((await self.ask_texts(_question(query, image, k, offset, options))).hits)

    async def captions(
        self, image: str | Path | bytes, *, k: int = 5, exact: bool = False
    ) -> list[TextHit]:
        """See `Client.captions`."""
        return await self.search_texts(image=image, k=k, exact=exact)

    async def captions_of(self, image_id: int, *, k: int = 5, exact: bool = False) -> list[TextHit]:
        """See `Client.captions_of`."""
        question = Question((Term(image_id=picture_id(image_id)),), k=k, exact=exact)
        return list((await self.ask_texts(question)).hits)

    async def similar(
        self, image_id: int, *, k: int = 10, offset: int = 0, exact: bool = False
    ) -> list[ImageHit]:
        """See `Client.similar`."""
        question = Question((Term(image_id=picture_id(image_id)),), k=k, offset=offset, exact=exact)
        return list((await self.ask(question)).hits)

    async def image(self, image_id: int) -> ImageRecord:
        """See `Client.image`."""
        return await self._send(_image(image_id))

    async def read_image(self, image_id: int) -> bytes:
        """See `Client.read_image`."""
        return await self._send(_bytes(image_id, "file", {}))

    async def thumbnail(self, image_id: int, max_side: int = 512) -> bytes:
        """See `Client.thumbnail`."""
        return await self._send(_bytes(image_id, "thumbnail", {"size": max_side}))

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Client.embed`."""
        return _together([await self._send(call) for call in _embed(texts)])

    async def embed_images(self, images: Sequence[str | Path | bytes]) -> NDArray[np.float32]:
        """See `Client.embed_images`."""
        return _together([await self._send(call) for call in _embed_images(images)])

    async def status(self) -> dict[str, Any]:
        """See `Client.status`."""
        return cast(dict[str, Any], await self.get("/v1/status"))

    async def upload(
        self,
        image: str | Path | bytes,
        *,
        name: str | None = None,
        text: str = "",
        wait_s: float = 30.0,
    ) -> dict[str, Any]:
        """See `Client.upload`."""
        return cast(dict[str, Any], await self._send(_upload(image, name, text, wait_s)))

    async def upload_text(
        self, text: str, *, image_id: int | None = None, wait_s: float = 30.0
    ) -> dict[str, Any]:
        """See `Client.upload_text`."""
        return cast(dict[str, Any], await self._send(_upload_text(text, image_id, wait_s)))

    async def delete(self, image_id: int, *, wait_s: float = 30.0) -> dict[str, Any]:
        """See `Client.delete`."""
        return cast(dict[str, Any], await self._send(_delete("images", image_id, wait_s)))

    async def delete_text(self, text_id: int, *, wait_s: float = 30.0) -> dict[str, Any]:
        """See `Client.delete_text`."""
        return cast(dict[str, Any], await self._send(_delete("texts", text_id, wait_s)))

    async def index(self, source: str | int | None = None, *, wait_s: float = 0.0) -> list[Any]:
        """See `Client.index`."""
        return cast(list[Any], await self._send(_index(source, wait_s)))

    async def get(self, path: str, **params: Any) -> Any:
        """See `Client.get`."""
        return await self._send(_Call("GET", path, _document, params))

    async def post(self, path: str, json: Any, **params: Any) -> Any:
        """See `Client.post`."""
        return await self._send(_Call("POST", path, _document, params, json=json))
