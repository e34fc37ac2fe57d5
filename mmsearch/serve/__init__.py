"""The HTTP service and its page: `create_app` builds it, `run` serves it.

Both are loaded at first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsearch.serve.app import create_app
    from mmsearch.serve.server import run

__all__ = ["create_app", "run"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from mmsearch.serve.app import create_app

        return create_app
    if name == "run":
        from mmsearch.serve.server import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
