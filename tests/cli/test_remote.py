"""A service that was found by itself, and does not do what it should: done without, never told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mmsearch.cli.remote import NotHereError, Remote
from mmsearch.overhttp import RemoteNotFoundError
from mmsearch.query import Question, Term


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says the same to whatever it is asked, once; and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(100_000))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        thread.join()


WHOLE = b'{"hits": [], "allowed": 3, "cut": 0, "filtered": false, "nearest": null}'


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n" + WHOLE,  # cut short
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n" + WHOLE,
        b"HTTP/1.1 200 OK\r\n\r\n<html>",
        b"HTTP/1.1 500 Oh\r\n\r\n" + WHOLE,
    ],
)
def test_what_is_no_answer_is_done_without(answer: bytes) -> None:
    question = Question((Term(text="a kite"),))
    with answering(answer) as (address, _), pytest.raises(NotHereError):
        Remote(address, "token", is_named=False).ask(question)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(NotHereError):
        Remote(address, None, is_named=False).ask(Question((Term(text="a kite"),)))


def test_the_request_bears_the_token_and_its_length() -> None:
    with (
        answering(b"HTTP/1.0 404 No\r\nContent-Length: 18\r\n\r\n" + b'{"detail": "none"}') as (
            address,
            asked,
        ),
        pytest.raises(RemoteNotFoundError, match="none"),
    ):
        Remote(address, "token", is_named=False).thumbnail(7)
    head, _, body = asked[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "GET /v1/images/7/thumbnail?size=512 HTTP/1.0"
    assert {"Authorization: Bearer token", "Content-Length: 0"} <= set(lines)
    assert body == b""
