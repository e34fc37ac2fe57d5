"""Forms with pictures: read whole, so that no field is left out unsaid."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile

from mmsearch.errors import QueryError
from mmsearch.serve.guard import too_large
from mmsearch.serve.problems import REPEATED

M = TypeVar("M", bound=BaseModel)

#: The field that holds pictures.
_FILE = "file"


def check_names(form: FormData, known: Collection[str], several: Collection[str] = ()) -> None:
    """Raises RequestValidationError: the form has other fields than these, or one of them, that is
    not among `several`, more than once."""
    counts = {name: len(form.getlist(name)) for name in form}
    errors = [
        {"type": "extra_forbidden", "loc": ("body", name), "msg": ""}
        if name not in known
        else repeated("body", name, n)
        for name, n in counts.items()
        if name not in known or (n > 1 and name not in several)
    ]
    if errors:
        raise RequestValidationError(errors)


def repeated(where: str, name: str, n: int) -> dict[str, Any]:
    """What is told of a name that stands `n` times in the address ("query") or the form ("body")
    and is good for one: of the others nothing would be known."""
    return {"type": REPEATED, "loc": (where, name), "msg": f"it is given {n} times: give it once"}


def in_form(
    model: type[M], most: int, limit: int
) -> tuple[Callable[[Request], Awaitable[tuple[M, list[bytes]]]], dict[str, Any]]:
    """What reads a form of `model` with 1 to `most` pictures of at most `limit` bytes each, and how
    OpenAPI describes it. Fields that are empty are as if they were not there.

    What reads it raises RequestValidationError; QueryError: too many pictures, or an empty one.
    """
    reader = TypeAdapter(model)
    known = {_FILE, *model.model_fields}
    switches = {name for name, about in model.model_fields.items() if about.annotation is bool}

    async def read(request: Request) -> tuple[M, list[bytes]]:
        async with request.form() as form:
            check_names(form, known, several={_FILE})
            files = [part for part in form.getlist(_FILE) if isinstance(part, UploadFile)]
            if not files:
                raise RequestValidationError([{"type": "missing", "loc": ("body", _FILE)}])
            if len(files) > most:
                raise QueryError(f"the form field 'file' holds at most {most}, not {len(files)}")
            given = {name: form[name] for name in form if name != _FILE and form[name] != ""}
            _check_switches({name: given[name] for name in switches & given.keys()})
            try:
                asked = reader.validate_python(given)
            except ValidationError as exc:
                errors = [{**error, "loc": ("body", *error["loc"])} for error in exc.errors()]
                raise RequestValidationError(errors) from exc
            return asked, [await uploaded(file, limit) for file in files]

    return read, {"requestBody": {"required": True, "content": _described(model, most)}}


def _check_switches(given: Mapping[str, Any]) -> None:
    """Raises RequestValidationError for what is not true or false; pydantic takes "off" as well."""
    errors = [
        {"type": "bool_parsing", "loc": ("body", name), "msg": "it is either true or false"}
        for name, value in sorted(given.items())
        if not isinstance(value, str) or value.lower() not in ("true", "false")
    ]
    if errors:
        raise RequestValidationError(errors)


def _described(model: type[BaseModel], most: int) -> dict[str, Any]:
    schema = model.model_json_schema()
    picture = {"type": "string", "format": "binary"}
    file: dict[str, Any] = {"type": "array", "items": picture, "minItems": 1, "maxItems": most}
    about = {"description": "the picture, in any format"}
    schema["properties"] = {_FILE: (picture if most == 1 else file) | about, **schema["properties"]}
    schema["required"] = [_FILE, *schema.get("required", [])]
    return {"multipart/form-data": {"schema": schema}}


async def uploaded(file: UploadFile, limit: int) -> bytes:
    """The upload's bytes. The guard has counted the whole body; this counts the file alone."""
    data = await file.read(limit + 1)
    if len(data) > limit:
        raise too_large(limit)
    if not data:
        raise QueryError("the upload is empty: send a picture in the form field 'file'")
    return data
