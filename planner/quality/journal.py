"""Answers of one side while they come in: one JSON line each, appended at once, so that an end at any moment costs
only the requests in flight.

The first line says which examples and settings the answers belong to; another check does not go on in this file. A
key is never part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from planner.catalog.files import parse_json
from planner.errors import BadFile
from planner.quality.examples import MAX_LINE_BYTES, Answer, Example, checked


def fingerprint(examples: Sequence[Example], settings: dict[str, Any]) -> str:
    """What makes answers reusable: what was asked, of which model, with which sampling."""
    asked = [[one.id, one.messages, one.tools, one.answer_schema] for one in examples]
    text = json.dumps([asked, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


class Journal:
    """The file of one side; held by one check at a time."""

    def __init__(self, path: Path, side: str, mark: str) -> None:
        """Open or begin the journal. Raises BadFile when it is another check's, in use or cannot be written."""
        from filelock import FileLock, Timeout

        self.path, self.answers = path, dict[tuple[str, int], Answer]()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(f"{path}.lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise BadFile(f"{side}: {path} is in use by another check that runs now") from None
        except OSError as error:
            raise BadFile(f"{side}: {path}: cannot be written ({error.strerror})") from None
        try:
            self._reopen(side, mark)
            self._file: IO[bytes] = path.open("ab", buffering=0)
        except OSError as error:
            self._lock.release()
            raise BadFile(f"{side}: {path}: cannot be written ({error.strerror})") from None
        except BadFile:
            self._lock.release()
            raise
        if not self._file.tell():
            self._write({"journal": mark, "side": side})

    def _reopen(self, side: str, mark: str) -> None:
        """Read what is there line by line; what follows the last line break was not finished and goes."""
        if not self.path.exists():
            return
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                where = f"{side}: {self.path}, line {number}"
                row = parse_json(line, where, 2 * MAX_LINE_BYTES)
                if number == 1:
                    if not isinstance(row, dict) or row.get("journal") != mark:
                        raise BadFile(
                            f"{side}: {self.path} holds answers to other examples, model or settings; "
                            "give another --journal, or remove it"
                        )
                else:
                    answer = checked(Answer, row, f"{side}: {self.path}", number)
                    self.answers[answer.id, answer.repeat] = answer
                end += len(line)
        os.truncate(self.path, end)

    def add(self, answer: Answer) -> None:
        """Keep an answer. Raises BadFile when the disk does not take it."""
        self._write(answer.model_dump(mode="json", exclude_defaults=True))
        self.answers[answer.id, answer.repeat] = answer

    def _write(self, row: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise BadFile(f"{self.path}: cannot be written ({error.strerror}); answers before this are kept") from None

    def close(self) -> None:
        """End writing; the file stays."""
        self._file.close()
        self._lock.release()
