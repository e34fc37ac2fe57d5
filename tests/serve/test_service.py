"""The threads behind the routes, and when the service calls itself ready."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from serve_library import BASE_URL, is_problem
from starlette.testclient import TestClient

import mmsearch
from mmsearch.errors import ModelUnavailableError
from mmsearch.library import Library
from mmsearch.serve import create_app
from mmsearch.serve.service import Service
from mmsearch.settings import Settings


@pytest.fixture
def service(library: Library, settings: Settings) -> Iterator[Service]:
    made = Service(library, settings)
    yield made
    made.close()


def test_the_loop_goes_on_while_the_model_works(service: Service) -> None:
    may_end = threading.Event()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(service.infer, may_end.wait)
            # Only a loop that is free gets here, and only then does the call above end.
            assert await service.read(lambda: 7) == 7
            may_end.set()

    anyio.run(main)


def test_one_thread_owns_the_model(service: Service) -> None:
    names: list[str] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(
                    service.infer, lambda: names.append(threading.current_thread().name)
                )

    anyio.run(main)
    assert len(names) == 8
    assert len(set(names)) == 1


class _Stuck:
    """A library whose model loads when told to, or fails to; the rest is the real one's."""

    def __init__(self, library: Library, warm: Callable[[], object]) -> None:
        self._library = library
        self.warm = warm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def _client(library: Library, settings: Settings, warm: Callable[[], object]) -> TestClient:
    app = create_app(cast(Library, _Stuck(library, warm)), settings)
    return TestClient(app, base_url=BASE_URL)


def test_ready_once_the_model_is_loaded(library: Library, settings: Settings) -> None:
    may_load = threading.Event()
    with _client(library, settings, may_load.wait) as client:
        problem = is_problem(client.get("/readyz"), 503)
        assert problem["type"] == "urn:mmsearch:problem:not-ready"
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/v1/status").json()["ready"] is False
        may_load.set()
        # Answered by the same thread, after the loading.
        assert client.get("/v1/search?q=x").status_code == 200
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/v1/status").json()["ready"] is True


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModelUnavailableError("m", "offline", "Put it in the cache."), "Put it in the cache."),
        (RuntimeError("CUDA fell over"), "the log says why"),
    ],
)
def test_a_model_that_cannot_be_loaded(
    library: Library,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    says: str,
) -> None:
    tried = threading.Event()

    def warm() -> None:
        tried.set()
        raise error

    with _client(library, settings, warm) as client:
        tried.wait(30)
        # Words of its own go through the inference thread, so that the failure has been noted when
        # this is answered.
        known = client.get(f"/v1/search?q=after {type(error).__name__}&k=1").json()["hits"][0]["id"]
        assert str(error) in caplog.text
        # That search worked after all, so the service is well again.
        assert client.get("/readyz").status_code == 200
        assert client.get(f"/v1/images/{known}/file").status_code in (200, 410)

    failing = SimpleNamespace(warm=warm, space=None, path=Path())
    service = Service(cast(Library, failing), settings)
    anyio.run(service.warm)
    assert service.state == "failed"
    assert says in str(service.problem)
    service.close()


def test_a_library_that_is_not_in_its_place_any_more_is_told(
    library_folder: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is gone is read on from what was opened. One that was replaced is not: answers would
    be of the old one, files and runs of the new."""
    monkeypatch.setattr("mmsearch.serve.service._LOOK_EVERY_S", 0.0)
    here = tmp_path / "library"
    shutil.copytree(library_folder, here)
    with mmsearch.open(here, device="cpu") as library:
        app = create_app(library, settings)
        with TestClient(app, base_url=BASE_URL) as client:
            assert client.get("/v1/search?q=x").status_code == 200  # after the model was loaded
            assert client.get("/readyz").status_code == 200
            here.rename(tmp_path / "moved")
            for there in (False, True):  # gone, and another in its place
                if there:
                    shutil.copytree(library_folder, here)
                problem = is_problem(client.get("/readyz"), 503)
                assert "start the service again" in problem["detail"]
                status = client.get("/v1/status").json()
                assert (status["ready"], status["problem"]) == (False, problem["detail"])
                assert "\nmmsearch_ready 0.0\n" in client.get("/metrics").text
                for path in ("/", "/healthz", "/assets/app.js"):
                    assert client.get(path).status_code == 200
                for path in ("/v1/search?q=x", "/v1/images/1", "/v1/facets", "/indices-list"):
                    answer = client.get(path)
                    if there:
                        refused = is_problem(answer, 503)
                        assert refused["type"] == "urn:mmsearch:problem:library-replaced"
                        assert refused["detail"] == problem["detail"]
                    else:
                        assert answer.status_code == 200
            shutil.rmtree(here)
            (tmp_path / "moved").rename(here)
            assert client.get("/readyz").status_code == 200
            assert client.get("/v1/search?q=x").status_code == 200
            assert client.get("/v1/status").json()["problem"] is None
