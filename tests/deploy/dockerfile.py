"""Reads a Dockerfile into its stages and instructions, as far as ours go.

Continued lines, comments, ARG before the first FROM, ENV, and JSON and shell forms; no heredocs, no
parser directives: those raise ValueError. See https://docs.docker.com/reference/dockerfile/.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_KNOWN = re.compile(
    "ARG|FROM|ENV|WORKDIR|RUN|COPY|LABEL|VOLUME|EXPOSE|USER|HEALTHCHECK|ENTRYPOINT|CMD"
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. name: in capitals. rest: what stands behind it, on one line."""

    name: str
    rest: str

    def words(self) -> list[str]:
        """The words of the JSON form, or those that a shell would see."""
        text = re.sub(r"^(--\S+\s+)+", "", self.rest).removeprefix("CMD ").strip()
        return json.loads(text) if text.startswith("[") else shlex.split(text)

    def flags(self) -> dict[str, str]:
        """--name=value in front of the words."""
        return dict(re.findall(r"--([\w-]+)=(\S+)", self.rest.split("CMD ")[0]))


@dataclass(slots=True)
class Stage:
    """From one FROM to the next. image: with the ARGs before it put in."""

    image: str
    name: str | None
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        return [one for one in self.instructions if one.name == name]

    def last(self, name: str) -> Instruction:
        """The one that counts. Raises IndexError where there is none."""
        return self.all(name)[-1]

    @property
    def environment(self) -> dict[str, str]:
        return dict(word.split("=", 1) for one in self.all("ENV") for word in one.words())


def read(path: Path) -> list[Stage]:
    """The stages of a Dockerfile. Raises ValueError for what this reader does not know."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for instruction in _instructions(path.read_text(encoding="utf-8")):
        if instruction.name == "FROM":
            image, *named = instruction.words()
            image = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], image)
            stages.append(Stage(image, named[1] if named else None))
        elif not stages:
            if instruction.name != "ARG":
                raise ValueError(f"{instruction.name} before the first FROM")
            name, _, value = instruction.rest.partition("=")
            arguments[name] = value
        else:
            stages[-1].instructions.append(instruction)
    return stages


def _instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, rest = line.partition(" ")
        if not _KNOWN.fullmatch(name) or "<<" in rest:
            raise ValueError(f"not known here: {line}")
        found.append(Instruction(name, rest.strip()))
    return found


def sent(rules: str, path: str) -> bool:
    """Whether .dockerignore lets a file into the build, by its path from the root.

    The last line that fits the file or a folder above it decides.
    https://docs.docker.com/build/concepts/context/#dockerignore-files
    """
    levels = [str(one) for one in (PurePosixPath(path), *PurePosixPath(path).parents)][:-1]
    ignored = False
    for line in filter(None, map(str.strip, rules.splitlines())):
        pattern = line.removeprefix("!")
        if not line.startswith("#") and any(_fits(pattern, level) for level in levels):
            ignored = not line.startswith("!")
    return not ignored


def _fits(pattern: str, path: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.rpartition("/")[2], pattern[3:])
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
