"""Files of the Hugging Face hub: from its cache when they are there, fetched once when not.

What is cached is used without asking the hub. That makes start-up quick and offline use silent,
and above all it keeps a library's space: a model that was changed upstream would no longer match
the vectors already stored. To take up a new version, delete the model from the hub's cache
(`hf cache rm model/ORG/NAME`).

A file whose hash the hub states (all large ones: the name of its blob in the cache is its SHA-256)
is checked against it right after the download; see `mmsearch.encode.fingerprint` for files that
something else put into the cache.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmsearch.encode.fingerprint import file_digest
from mmsearch.encode.protocol import Progress
from mmsearch.errors import ModelUnavailableError

logger = logging.getLogger(__name__)

#: Seconds to wait for the hub to say whether it has a file. The hub answers within one; somebody
#: offline behind a firewall that swallows packets should not wait for minutes to be told so.
_ANSWER_TIMEOUT_S = 5.0

_SHA256 = re.compile(r"[0-9a-f]{64}")


def cached(repo: str, filename: str) -> Path | None:
    """The file in the hub's cache, or None. No network."""
    from huggingface_hub import constants, errors, try_to_load_from_cache

    try:
        # Stated, because the default is bound when huggingface_hub is first imported.
        found = try_to_load_from_cache(repo, filename, cache_dir=constants.HF_HUB_CACHE)
    except errors.HFValidationError:
        return None  # no repository can be called that
    return Path(found) if isinstance(found, str) else None


def fetch(
    model: str, repo: str, filenames: Sequence[str], on_progress: Progress | None = None
) -> Path:
    """The first of these files that the repository has, in the hub's cache.

    model: as the user named it, for messages. filenames: alternatives, the best first. A cached
    one wins over a better one that would have to be fetched.

    on_progress: called as bytes arrive; without it there is a bar on stderr where that is a
    terminal. Raises ModelUnavailableError when no file is cached and none can be fetched, or when
    what was fetched is not what the hub says it is (it is deleted then).
    """
    for filename in filenames:
        if found := cached(repo, filename):
            return found
    for filename in filenames:
        if found := _download(model, repo, filename, on_progress):
            return found
    raise ModelUnavailableError(
        model,
        f"the hub repository {repo} has none of {', '.join(filenames)}",
        "Check the name, or put the model into a folder and use local-dir:FOLDER",
    )


def fetch_optional(model: str, repo: str, filename: str) -> Path | None:
    """The file, in the hub's cache, or None where the repository has no such file.

    Raises ModelUnavailableError when it is not cached and the hub cannot be asked.
    """
    return cached(repo, filename) or _download(model, repo, filename, None)


def verify_cached(model: str, path: Path) -> str:
    """SHA-256 of a file, in hex; for one in the hub's cache also checked against the hub's.

    The hub's cache keeps large files under their SHA-256, so a file that was damaged, or put there
    by hand under a wrong name, is noticed. Reads the file once; see `file_digest`. Raises
    ModelUnavailableError for a mismatch; the file is left alone.
    """
    digest = file_digest(path)
    promised = path.resolve().name
    if _SHA256.fullmatch(promised) and digest != promised:
        raise ModelUnavailableError(
            model,
            f"{path.resolve()} is damaged (its SHA-256 is {digest})",
            "Delete that file and run the command again to fetch it anew",
        )
    return digest


def _download(model: str, repo: str, filename: str, on_progress: Progress | None) -> Path | None:
    """Fetch one file into the cache; None when the repository does not have it."""
    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    # Read now rather than when huggingface_hub was first imported.
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    options: dict[str, Any] = {}
    if "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters:
        options["tqdm_class"] = _bar(filename, on_progress)
    try:
        url = hub.hf_hub_url(repo, filename, endpoint=endpoint)
        # hf_hub_download would ask too, but tries for minutes where nobody answers.
        about = hub.get_hf_file_metadata(url, timeout=_ANSWER_TIMEOUT_S, endpoint=endpoint)
        logger.info("fetching %s of %s from %s", filename, repo, endpoint)
        path = Path(
            hub.hf_hub_download(
                repo,
                filename,
                cache_dir=constants.HF_HUB_CACHE,
                endpoint=endpoint,
                etag_timeout=_ANSWER_TIMEOUT_S,
                library_name="mmsearch",
                **options,
            )
        )
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as exc:
        raise ModelUnavailableError(
            model,
            f"the hub at {endpoint} has no repository {repo}, or not for you",
            "Check the name; for a private or gated model log in with `hf auth login`",
        ) from exc
    except errors.LocalEntryNotFoundError as exc:
        raise _unreachable(model, url, filename, exc) from exc
    except errors.EntryNotFoundError:
        return None
    except _failures() as exc:
        raise _unreachable(model, url, filename, exc) from exc
    _check(model, path, about.etag, about.size)
    return path


def _check(model: str, path: Path, etag: str | None, size: int | None) -> None:
    """Compare a file fetched just now with what the hub said of it, or delete it and raise."""
    found = path.stat().st_size
    why = ""
    if size is not None and found != size:
        why = f"{found} bytes came instead of {size}"
    elif etag and _SHA256.fullmatch(etag) and file_digest(path) != etag:
        why = "its SHA-256 is not the one the hub states"
    if not why:
        return
    for file in {path, path.resolve()}:  # the name in snapshots/ and the blob it points to
        file.unlink(missing_ok=True)
    raise ModelUnavailableError(
        model,
        f"{path.name} arrived damaged ({why}); it was deleted",
        "Run the command again; if it happens every time, a proxy may be changing the file",
    )


def _unreachable(
    model: str, url: str, filename: str, cause: BaseException
) -> ModelUnavailableError:
    from huggingface_hub import constants

    root: BaseException = cause
    while isinstance(root.__cause__, BaseException):
        root = root.__cause__
    said = str(root).strip().splitlines()
    return ModelUnavailableError(
        model,
        f"{filename} is not in the cache and could not be fetched from {url} "
        f"({type(root).__name__}: {said[0] if said else 'no details'})",
        "Connect and run the command again; or copy the hub's cache of another machine to "
        f"{constants.HF_HUB_CACHE}; or put the weights and open_clip_config.json into a folder and "
        "use --model local-dir:FOLDER. `--model tiny` is bundled and needs nothing",
    )


def _failures() -> tuple[type[BaseException], ...]:
    """What a failed transfer may raise.

    huggingface_hub lets the errors of its HTTP client through, and has changed clients (requests,
    httpx, httpx2); requests' are OSErrors already, those of its Rust part (hf_xet) RuntimeErrors.
    """
    from huggingface_hub import errors

    kinds: list[type[BaseException]] = [OSError, ValueError, RuntimeError]
    if xet := getattr(errors, "XetDownloadError", None):
        kinds.append(xet)
    for client in ("httpx", "httpx2"):
        module = sys.modules.get(client)
        if module is not None:
            kinds.append(module.HTTPError)
    return tuple(kinds)


def _bar(filename: str, on_progress: Progress | None) -> type[Any]:
    """A tqdm class that reports to the callback, or else draws where stderr is a terminal."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # huggingface_hub's own addition
            kwargs["disable"] = True if on_progress else None  # None: only on a terminal
            super().__init__(*args, **kwargs)
            self._done = int(kwargs.get("initial") or 0)  # a disabled bar does not count

        def update(self, n: float | None = 1) -> Any:
            if on_progress:
                self._done += int(n or 0)
                total = self.total
                on_progress(filename, self._done, None if total is None else int(total))
            return super().update(n)

    return Bar
