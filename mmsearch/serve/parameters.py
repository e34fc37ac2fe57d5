"""Parameters in the address: each once, unless several are meant."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, get_origin

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams

from mmsearch.serve.forms import repeated


def once(params: QueryParams, names: Iterable[str]) -> None:
    """Raises RequestValidationError where one of these names stands several times."""
    counts = {name: len(params.getlist(name)) for name in sorted(names)}
    errors = [repeated("query", name, n) for name, n in counts.items() if n > 1]
    if errors:
        raise RequestValidationError(errors)


class OnceRoute(APIRoute):
    """A route that refuses what FastAPI would take the last of, and leave the others out unsaid."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What FastAPI answers with, where each name that is good for one is given once."""
        answer = super().get_route_handler()
        names = [
            field.alias
            for field in self.dependant.query_params
            if get_origin(field.field_info.annotation) is not list
        ]
        if not names:
            return answer

        async def answered(request: Request) -> Response:
            if b"&" in request.scope["query_string"]:
                once(request.query_params, names)
            return await answer(request)

        return answered
