"""Searches of the terminal that a running service answers, which has its model warm.

With --server or MMSEARCH_SERVER that one is asked, and what it says stands. Without, a service that
runs for the same library on this machine is looked for; whatever goes wrong with it, the library is
opened here instead, as if there were none. Imports nothing heavy: this is what makes it quick.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from mmsearch import announce
from mmsearch.cli.options import plain_library_path, said
from mmsearch.errors import DecodeError
from mmsearch.overhttp import (
    RemoteError,
    UnreachableError,
    error_of,
    image_answer,
    search_call,
    text_answer,
)
from mmsearch.query import Question
from mmsearch.types import Answer, ImageHit, TextHit

R = TypeVar("R", bound=Callable[..., Any])

#: A service that was named may have a long queue; one that was found must be quicker than starting.
_NAMED_TIMEOUT_S = 60.0
_FOUND_TIMEOUT_S = 10.0
#: Stands for bytes that are not UTF-8, which HTTP cannot carry.
_LOST = "\ufffd"


def server_options(command: R) -> R:
    """--server, --key and --no-server."""
    for option in (
        click.option("--no-server", is_flag=True, help="Open the library here, always."),
        click.option("--key", envvar="MMSEARCH_KEY", metavar="KEY", help="For --server."),
        click.option(
            "--server",
            envvar="MMSEARCH_SERVER",
            metavar="URL",
            help="Let this service answer. One that runs here for the library is found by itself.",
        ),
    ):
        command = option(command)
    return command


class NotHereError(Exception):
    """The service that was found is of no use for this: the library must be opened here."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A service that can be asked in place of a library."""

    address: str
    key: str | None
    is_named: bool

    def ask(self, question: Question) -> Answer[ImageHit]:
        """As `Library.ask`. Raises RemoteError and DecodeError, or else NotHereError."""
        with self._telling():
            answer = image_answer(self._post(*search_call(question, "image")), question)
            paths = [path for hit in answer.hits for path in (hit.image.path, *hit.image.copies)]
            self._check_names(paths)
            return answer

    def ask_texts(self, question: Question) -> Answer[TextHit]:
        """As `Library.ask_texts`. Errors as in `ask`."""
        with self._telling():
            answer = text_answer(self._post(*search_call(question, "text")), question)
            self._check_names([hit.text.source for hit in answer.hits])
            return answer

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Of a service that was named errors are told; one that was found is done without."""
        try:
            yield
        except (RemoteError, DecodeError) as exc:
            if self.is_named:
                raise
            raise NotHereError from exc
        except (KeyError, TypeError, ValueError) as exc:
            raise self._stranger() if self.is_named else NotHereError() from exc

    def _check_names(self, paths: Sequence[str]) -> None:
        if not self.is_named and any(_LOST in path for path in paths):
            raise NotHereError  # the library itself knows their names

    def _stranger(self) -> UnreachableError:
        return UnreachableError(f"what answers at {self.address} is no mmsearch service")

    def thumbnail(self, image_id: int, max_side: int = 512) -> bytes:
        """As `Library.thumbnail`. Raises RemoteError."""
        path = f"/v1/images/{image_id:d}/thumbnail?size={max_side:d}"
        return self._send("GET", path, None, None)

    def _post(self, path: str, body: bytes, content_type: str) -> Any:
        answer = self._send("POST", path, body, content_type)
        try:
            return json.loads(answer)
        except ValueError as exc:
            raise self._stranger() from exc

    def _send(self, method: str, path: str, body: bytes | None, content_type: str | None) -> bytes:
        parts = urlsplit(self.address)
        secure = parts.scheme == "https"
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.UsageError(f"{self.address!r} is no address: write http://HOST:PORT")
        headers = {} if content_type is None else {"Content-Type": content_type}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        where = parts.hostname, parts.port
        path = parts.path.rstrip("/") + path
        try:
            if self.is_named:
                answer = _by_http_client(secure, where, method, path, body or b"", headers)
            else:
                answer = _by_socket(where, method, path, body or b"", headers)
        except (OSError, ValueError) as exc:
            late = isinstance(exc, socket.timeout)
            why = "it took too long" if late else getattr(exc, "strerror", None) or str(exc)
            raise UnreachableError(
                f"the service at {self.address} does not answer: {why}. Does it run? --no-server "
                "opens the library here"
            ) from exc
        status, given, content = answer
        if status >= 400:
            raise error_of(status, content, given)
        return content


_Where = tuple[str, int | None]
#: Status, headers with small names, content.
_Response = tuple[int, dict[str, str], bytes]


def _by_http_client(
    secure: bool, where: _Where, method: str, path: str, body: bytes, headers: dict[str, str]
) -> _Response:
    """Any server, whatever stands before it. Raises OSError and ValueError."""
    import http.client

    make = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = make(*where, timeout=_NAMED_TIMEOUT_S)
    try:
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        given = {name.lower(): value for name, value in response.headers.items()}
        return response.status, given, response.read()
    except http.client.HTTPException as exc:
        raise ValueError(str(exc)) from exc
    finally:
        connection.close()


def _by_socket(
    where: _Where, method: str, path: str, body: bytes, headers: dict[str, str]
) -> _Response:
    """mmsearch's own server on this machine, without http.client, which takes 15 ms to load.

    In HTTP/1.0 an answer ends with the connection, and is never in chunks. Raises OSError, and
    ValueError for an answer that is none or not whole.
    """
    host, port = where
    lines = [f"{method} {path} HTTP/1.0", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    # As bytes: text would be taken for a name in any script, whose codec takes 3 ms to load.
    at: Any = host.encode("ascii"), port or 80
    with socket.create_connection(at, _FOUND_TIMEOUT_S) as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode("latin-1") + body)
        with connection.makefile("rb") as file:
            head, _, content = file.read().partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    named = (line.partition(":") for line in rest)
    given = {name.lower(): value.strip() for name, _, value in named}
    if len(content) != int(given.get("content-length", len(content))):
        raise ValueError("its answer is not whole")
    _, status, *_ = first.split(None, 2)
    return int(status), given, content


def remote_for(
    library: Path | None,
    device: str | None,
    server: str | None,
    key: str | None,
    *,
    no_server: bool,
) -> Remote | None:
    """The service that the user named, or the one that runs for this library here, if any.

    device: where the user wants the model to run: then it is theirs to load. Raises UsageError for
    options that exclude each other; what is typed goes before MMSEARCH_SERVER.
    """
    typed = said("server", "key", "no_server")
    is_local = library is not None or device is not None
    if "server" in typed and (no_server or is_local):
        other = "--no-server" if no_server else "-l/--library" if library else "--device"
        raise click.UsageError(f"--server and {other} exclude each other: leave one out")
    if "key" in typed and (no_server or not server):
        raise click.UsageError("--key is for a service that --server names")
    if no_server:
        return None
    if server and ("server" in typed or not is_local):
        return Remote(server, key, is_named=True)
    running = None if device is not None else announce.find(plain_library_path(library))
    return None if running is None else Remote(running.address, running.token, is_named=False)
