"""A small Hugging Face hub on loopback: what huggingface_hub asks of the real one, and mishaps."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandInHub:
    """files: {"org/name": {"file": bytes}}. What is asked is noted in `requests` ("GET file").

    cut_after: bodies break off after so many bytes. broken: every GET fails with 500.
    lie: bodies are sent changed, at the same length.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.cut_after: int | None = None
        self.broken_after_cut = False
        self.lie = False
        self._broken = False
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def heal(self) -> None:
        self.cut_after, self.lie, self._broken = None, False, False

    def bodies(self) -> list[str]:
        """Names of the files whose content was asked for since the last look."""
        names = [asked[4:] for asked in self.requests if asked.startswith("GET ")]
        self.requests.clear()
        return names

    def start(self) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, "HEAD")

            def do_GET(self) -> None:
                hub.answer(self, "GET")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", handler.path)
        repo, _, name = found.groups() if found else ("", "", "")
        self.requests.append(f"{method} {name}")
        if repo not in self.files or name not in self.files[repo]:
            kind = "EntryNotFound" if repo in self.files else "RepoNotFound"
            handler.send_response(404)
            handler.send_header("X-Error-Code", kind)
            handler.send_header("X-Repo-Commit", COMMIT)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if method == "GET" and self._broken:
            handler.send_response(500)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        content = self.files[repo][name]
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        if wanted:
            start = int(wanted.group(1))
            handler.send_response(206)
            whole = len(content)
            handler.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        else:
            handler.send_response(200)
        # Large files are kept by their SHA-256, small ones by a Git hash.
        large = not name.endswith(".json")
        digest = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
        handler.send_header("ETag", f'"{digest}"')
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.send_header("Accept-Ranges", "bytes")
        body = content[start:]
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if method == "HEAD":
            return
        if large and self.lie:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if large and self.cut_after is not None:
            handler.wfile.write(body[: self.cut_after])
            handler.close_connection = True
            self._broken = self.broken_after_cut
            self.cut_after = None
            return
        handler.wfile.write(body)


@contextmanager
def running_hub() -> Iterator[StandInHub]:
    hub = StandInHub()
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()
