"""A run while it is measured: one JSON line per point, appended and flushed, so that a crash costs one point.

The first line says which run this is and on what machine; a journal of another machine state is not resumed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from planner.catalog.files import parse_json, read_bytes
from planner.errors import BadFile
from planner.specs.base import Spec
from planner.specs.run import Environment, Id, Mode, Point, Version

MAX_BYTES = 64 * 2**20


class Header(Spec):
    """Which run this is. `seed` fixes the random order of its points."""

    id: Id
    gpu: Id
    created: str
    planner_version: Version
    mode: Mode
    seed: Annotated[int, Field(ge=0)]
    environment: Environment

    def same_machine(self, other: Environment) -> bool:
        """Whether points measured now belong to the same run: card, driver, torch and power limit."""
        names = ("device_token", "driver", "torch", "cuda", "power_limit_w", "mig", "ecc")
        return all(getattr(self.environment, name) == getattr(other, name) for name in names)


class Journal:
    """The file of one run in progress."""

    def __init__(self, path: Path, header: Header, points: list[Point]) -> None:
        self.path, self.header, self.points = path, header, points

    @classmethod
    def start(cls, path: Path, header: Header) -> Journal:
        """A new journal, in place of any older one. Raises BadFile when it cannot be written."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        journal = cls(path, header, [])
        journal._append(header.model_dump(mode="json", exclude_defaults=True))
        return journal

    @classmethod
    def reopen(cls, path: Path) -> Journal | None:
        """The journal at `path` as far as it was written; None when there is none, or not even a header."""
        if not path.is_file():
            return None
        whole = read_bytes(path, MAX_BYTES)
        lines = whole.split(b"\n")[:-1]  # what follows the last line break was not finished
        try:
            header = Header.model_validate(parse_json(lines[0], path.name))
            points = [Point.model_validate(parse_json(line, path.name)) for line in lines[1:]]
        except (BadFile, ValidationError, IndexError):
            return None
        os.truncate(path, sum(len(line) + 1 for line in lines))
        return cls(path, header, points)

    def add(self, point: Point) -> None:
        """Keep a point. Raises BadFile when the disk does not take it."""
        self._append(point.model_dump(mode="json", exclude_defaults=True))
        self.points.append(point)

    def _append(self, document: dict[str, Any]) -> None:
        line = json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            said = error.strerror or type(error).__name__
            raise BadFile(
                f"{self.path.name}: cannot be written ({said}); what was measured is kept, --resume goes on from there"
            ) from None

    def drop(self) -> None:
        """The run is written; its journal is not needed any more."""
        self.path.unlink(missing_ok=True)
