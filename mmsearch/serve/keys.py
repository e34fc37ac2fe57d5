"""The API keys of a library: made once, shown once, kept only as hashes.

A key is 256 random bits, so its plain SHA-256 can be kept: there is nothing to guess, and the slow,
salted hashes that passwords need would only make every request slow.

They stand in a file of the library folder, not in its catalog, so that copies and backups of the
catalog carry none. Only its owner may read it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock, Timeout

from mmsearch.errors import RefusedError, StoreError, UnknownNameError
from mmsearch.filenames import from_home

Scope = Literal["read", "write"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

KEYS_NAME = "keys.json"
#: What every key begins with, so that people and secret scanners know one when they see it.
PREFIX = "mms_"
_ENTROPY_BYTES = 32
_MAX_NAME = 64
#: Longer than any key: more is not hashed.
_MAX_GIVEN = 200
_LOCK_S = 10


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. scope: "write" may read too. created: ISO 8601, UTC."""

    name: str
    scope: Scope
    sha256: str
    created: str


class Keys:
    """The keys in one file. Thread-safe; what another process changes counts at once.

    A file that is there but cannot be read raises StoreError: nobody is let in by accident.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read: tuple[Key, ...] = ()
        self._signature: tuple[int, int, int] | None = None

    def all(self) -> tuple[Key, ...]:
        """Every key, the oldest first. Raises StoreError."""
        with self._lock:
            signature = self._sign()
            if signature is None:
                self._read = ()
            elif signature != self._signature:
                self._read = self._load()
            self._signature = signature
            return self._read

    def find(self, given: str) -> Key | None:
        """The key whose secret this is. Takes as long for a wrong one as for a right one."""
        digest = digest_of(given) if len(given) <= _MAX_GIVEN else ""
        found = None
        for key in self.all():
            if hmac.compare_digest(key.sha256.encode(), digest.encode()):
                found = key
        return found

    def add(self, name: str, scope: Scope) -> str:
        """Makes a key and returns its secret, which nobody can tell again.

        Raises:
            RefusedError: the name cannot be one, or is taken.
            StoreError: the file cannot be written.
        """
        name = name.strip()
        if not name or not name.isprintable() or len(name) > _MAX_NAME:
            raise RefusedError(
                f"{name!r} cannot be the name of a key: write one line of at most {_MAX_NAME} "
                "characters"
            )
        secret = PREFIX + secrets.token_urlsafe(_ENTROPY_BYTES)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._changing() as keys:
            if any(key.name == name for key in keys):
                raise RefusedError(
                    f"there is a key {name!r} already. Take another name, or revoke that one "
                    f"first: mmsearch keys revoke {name!r}"
                )
            self._save([*keys, Key(name, scope, digest_of(secret), now)])
        return secret

    def revoke(self, name: str) -> Key:
        """Deletes a key, which counts from the next request on. Raises UnknownNameError."""
        with self._changing() as keys:
            gone = next((key for key in keys if key.name == name), None)
            if gone is None:
                raise UnknownNameError("key", name, [key.name for key in keys])
            self._save([key for key in keys if key is not gone])
        return gone

    def _sign(self) -> tuple[int, int, int] | None:
        try:
            info = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._broken(exc.strerror or "unreadable") from exc
        return info.st_ino, info.st_mtime_ns, info.st_size

    def _load(self) -> tuple[Key, ...]:
        try:
            listed = json.loads(self.path.read_text(encoding="utf-8"))["keys"]
            keys = tuple(Key(**one) for one in listed)
        except OSError as exc:
            raise self._broken(exc.strerror or "unreadable") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise self._broken("it holds no list of keys") from exc
        if not all(key.scope in SCOPES and isinstance(key.sha256, str) for key in keys):
            raise self._broken("it holds no list of keys")
        return keys

    def _broken(self, why: str) -> StoreError:
        return StoreError(
            f"the API keys in {self.path} cannot be read: {why}. Give the file back to its owner, "
            "or delete it and make new keys: mmsearch keys add NAME"
        )

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        try:
            with FileLock(f"{self.path}.lock", timeout=_LOCK_S):
                yield list(self.all())
        except Timeout as exc:
            raise StoreError(f"another process is changing {self.path}; try again") from exc
        except OSError as exc:
            raise StoreError(
                f"{self.path} cannot be written: {exc.strerror or exc}. MMSEARCH_KEYS_FILE "
                "names another file"
            ) from exc

    def _save(self, keys: list[Key]) -> None:
        document = {"keys": [asdict(key) for key in keys]}
        fresh = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.new")
        try:
            # For the owner alone from the start: later would be too late for who opened it before.
            number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w", encoding="utf-8") as out:
                json.dump(document, out, ensure_ascii=False, indent=1)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(self.path)
        finally:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)


def digest_of(secret: str) -> str:
    """What is kept of a secret: its SHA-256, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def keys_path(library: Path, chosen: Path | None) -> Path:
    """The file of a library's keys. chosen: another place, for a library on a read-only disk."""
    return from_home(chosen or library / KEYS_NAME)


def as_scope(text: str) -> Scope:
    """The scope of this name."""
    return next(scope for scope in SCOPES if scope == text)
