"""Keys: made once, kept as hashes, taken back at once."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from mmsearch.errors import RefusedError, StoreError, UnknownNameError
from mmsearch.serve.keys import KEYS_NAME, PREFIX, Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / KEYS_NAME)


def test_a_key_is_known_by_its_secret_alone(keys: Keys) -> None:
    secret = keys.add("laptop", "read")
    other = keys.add("camera", "write")
    assert secret.startswith(PREFIX)
    assert len(secret) == len(PREFIX) + 43  # 256 bits in base64
    found = keys.find(secret)
    assert found is not None
    assert (found.name, found.scope) == ("laptop", "read")
    assert keys.find(other) == keys.all()[1]
    for wrong in ("", secret[:-1], secret + "x", secret.swapcase(), found.sha256, "x" * 10**6):
        assert keys.find(wrong) is None


def test_the_file_holds_no_secret_and_is_its_owners(keys: Keys) -> None:
    secret = keys.add("laptop", "read")
    text = keys.path.read_text()
    assert secret not in text
    assert secret.removeprefix(PREFIX) not in text
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert {f.name for f in keys.path.parent.iterdir()} <= {KEYS_NAME, f"{KEYS_NAME}.lock"}


def test_what_another_process_changes_counts_at_once(keys: Keys) -> None:
    server = Keys(keys.path)
    assert server.all() == ()
    secret = keys.add("laptop", "read")
    assert server.find(secret) is not None
    keys.revoke("laptop")
    assert server.find(secret) is None
    assert server.all() == ()
    keys.path.unlink()
    assert server.all() == ()


def test_names(keys: Keys) -> None:
    keys.add(" laptop ", "read")
    with pytest.raises(RefusedError, match="'laptop' already"):
        keys.add("laptop", "write")
    for name in ("", "  ", "a\nb", "a\x1b[31m", "x" * 65):
        with pytest.raises(RefusedError, match="name of a key"):
            keys.add(name, "read")
    with pytest.raises(UnknownNameError, match="'laptop'"):
        keys.revoke("desk")


def test_many_at_once_lose_none(keys: Keys) -> None:
    def make(n: int) -> None:
        Keys(keys.path).add(f"key {n}", "read")

    threads = [threading.Thread(target=make, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in keys.all()} == {f"key {n}" for n in range(12)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"keys": [{"name": "x"}]}',
        '{"keys": [{"name": "x", "scope": "root", "sha256": "", "created": ""}]}',
        '{"keys": [{"name": "x", "scope": "read", "sha256": null, "created": ""}]}',
    ],
)
def test_a_broken_file_lets_nobody_in_and_is_not_written_over(keys: Keys, text: str) -> None:
    keys.path.write_text(text)
    with pytest.raises(StoreError, match=r"keys\.json cannot be read"):
        keys.find("x")
    with pytest.raises(StoreError, match=r"keys\.json cannot be read"):
        keys.add("laptop", "read")
    assert keys.path.read_text() == text


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="MMSEARCH_KEYS_FILE"):
        Keys(tmp_path / "file" / KEYS_NAME).add("laptop", "read")
