"""A user's own examples: JSON lines or CSV, checked whole before anything runs.

Fields: `id`, `prompt` or `messages`, and as the task needs them `tools`, `schema`, `reference`, `tags`, `scorers`.
A message about a bad file names the example by its id and line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from planner.catalog.files import decoded, parse_json, read_bytes
from planner.errors import BadFile, first_fault
from planner.specs.base import Spec

MAX_BYTES = 256 * 2**20
MAX_LINE_BYTES = 8 * 2**20
FEWEST, MOST = 10, 10_000
TEMPLATE = Path(__file__).resolve().parent.parent / "data" / "quality_check_template.jsonl"
_JSON_COLUMNS = ("messages", "tools", "schema", "scorers", "tool_calls")

Identity = Annotated[str, Field(min_length=1, max_length=200)]
JsonObject = dict[str, Any]
Record = TypeVar("Record", bound=BaseModel)


class ScorerKind(StrEnum):
    """What passes."""

    EXACT = "exact"  # the reference, character by character
    NORMALISED = "normalised"  # the reference, whatever its case, spaces and closing punctuation
    NUMERIC = "numeric"  # the answer's last number, within a tolerance
    CHOICE = "choice"  # the reference's letter
    CONTAINS = "contains"  # the text of the scorer or else of the reference occurs
    REGEX = "regex"
    JSON = "json"  # JSON and nothing else (a code fence may surround it)
    JSON_SCHEMA = "json_schema"  # JSON that the example's schema accepts
    TOOL_CALL = "tool_call"  # names and arguments of the reference's calls
    UNIT_TEST = "unit_test"  # the reference's asserts run through on the answer's code
    SEMANTIC = "semantic"  # means what the reference means, by the similarity of their embeddings
    JUDGE = "judge"  # a judging model, asked in both orders, does not prefer the other side's answer


class Scorer(Spec):
    """One requirement on an answer; an example passes when all of its scorers do."""

    kind: ScorerKind
    text: Annotated[str, Field(max_length=10_000)] = ""  # contains: this text; regex: this pattern
    tolerance: Annotated[float, Field(ge=0)] = 0.0  # numeric: absolute
    relative_tolerance: Annotated[float, Field(ge=0, le=1)] = 1e-6  # numeric: of the reference
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0  # unit_test, regex
    similarity: Annotated[float, Field(gt=0, le=1)] = 0.5  # semantic: least cosine


class Example(Spec):
    """One task of the user's own."""

    id: Identity
    messages: Annotated[list[JsonObject], Field(min_length=1, max_length=1000)]
    tools: list[JsonObject] | None = None
    answer_schema: Annotated[Any, Field(alias="schema")] = None
    reference: Any = None
    tags: Annotated[tuple[Identity, ...], Field(max_length=50)] = ()
    scorers: Annotated[tuple[Scorer, ...], Field(max_length=20)] = ()

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, row: Any) -> Any:
        """`prompt` is one user message; a scorer's name alone is a scorer; tags may be one text."""
        if not isinstance(row, dict):
            raise ValueError("an example is an object with id and prompt or messages")
        row = dict(row)
        prompt = row.pop("prompt", None)
        if prompt is not None and row.get("messages"):
            raise ValueError("has both prompt and messages; keep one")
        if prompt is not None:
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError("its prompt is empty or not text")
            row["messages"] = [{"role": "user", "content": prompt}]
        elif not row.get("messages"):
            raise ValueError("has neither prompt nor messages")
        if isinstance(row.get("tags"), str):
            row["tags"] = [tag.strip() for tag in row["tags"].split(";") if tag.strip()]
        named = row.get("scorers") or []
        named = named.split(";") if isinstance(named, str) else named
        row["scorers"] = [{"kind": one.strip()} if isinstance(one, str) else one for one in named]
        return row

    @model_validator(mode="after")
    def _has_roles(self) -> Example:
        for message in self.messages:
            if not isinstance(message.get("role"), str):
                raise ValueError("a message has no role")
        return self


class Answer(Spec):
    """What one side said to one example, once. Times in seconds, from request to the whole answer."""

    id: Identity
    repeat: Annotated[int, Field(ge=0, le=1000)] = 0
    output: str = ""
    tool_calls: tuple[JsonObject, ...] = ()
    finish_reason: str | None = None
    prompt_tokens: Annotated[int, Field(ge=0)] | None = None
    completion_tokens: Annotated[int, Field(ge=0)] | None = None
    latency_s: Annotated[float, Field(ge=0)] | None = None


def read_examples(path: str | Path) -> list[Example]:
    """The examples of a file. Raises BadFile that names the example and what is wrong with it."""
    path = Path(path)
    examples: list[Example] = []
    seen: dict[str, int] = {}
    for line, row in _rows(path):
        example = checked(Example, row, path.name, line)
        if example.id in seen:
            raise BadFile(f"{path.name}, line {line}: the id {example.id!r} stands already in line {seen[example.id]}")
        seen[example.id] = line
        examples.append(example)
    if not FEWEST <= len(examples) <= MOST:
        raise BadFile(f"{path.name}: {len(examples)} examples; a check takes {FEWEST} to {MOST:,}, about 50 to begin")
    return examples


def read_answers(path: str | Path, side: str) -> list[Answer]:
    """Answers made elsewhere, or a journal of this check. Raises BadFile that names the side and the line."""
    path = Path(path)
    answers: list[Answer] = []
    seen: set[tuple[str, int]] = set()
    for line, row in _rows(path):
        if "journal" in row:
            continue
        known = {name: value for name, value in row.items() if name in Answer.model_fields and value is not None}
        if "output" not in known and "tool_calls" not in known:
            raise BadFile(f"{side}: {path.name}, line {line}: {_named(row)} has neither output nor tool_calls")
        answer = checked(Answer, known, f"{side}: {path.name}", line)
        if (answer.id, answer.repeat) in seen:
            raise BadFile(
                f"{side}: {path.name}, line {line}: the id {answer.id!r} stands twice (repeat {answer.repeat})"
            )
        seen.add((answer.id, answer.repeat))
        answers.append(answer)
    if not answers:
        raise BadFile(f'{side}: {path.name} holds no answer; lines are like {{"id": "a1", "output": "text"}}')
    return answers


def checked(record: type[Record], row: JsonObject, where: str, line: int) -> Record:
    """`row` as a record. Raises BadFile that names the example, the field and what is wrong."""
    try:
        return record.model_validate(row)
    except ValidationError as error:
        raise BadFile(f"{where}, line {line}: {_named(row)}: {first_fault(error)}") from None


def _named(row: Any) -> str:
    name = row.get("id") if isinstance(row, dict) else None
    return f"example {str(name)[:80]!r}" if name not in (None, "") else "an example without id"


def _rows(path: Path) -> Iterator[tuple[int, JsonObject]]:
    """Line number and fields of each record of a .csv or JSON-lines file."""
    data = read_bytes(path, MAX_BYTES)
    if path.suffix.lower() == ".csv":
        yield from _csv_rows(data, path.name)
        return
    for line, text in enumerate(data.splitlines(), 1):
        if text.strip():
            where = f"{path.name}, line {line}"
            row = parse_json(text, where, MAX_LINE_BYTES)
            if not isinstance(row, dict):
                raise BadFile(f'{where}: not an object; a line is one example, like {{"id": "a1", ...}}')
            yield line, _with_text_id(row)


def _csv_rows(data: bytes, name: str) -> Iterator[tuple[int, JsonObject]]:
    try:
        reader = csv.DictReader(io.StringIO(decoded(data, name, MAX_BYTES), newline=""), strict=True)
        csv.field_size_limit(MAX_LINE_BYTES)
        for row in reader:
            line = reader.line_num
            if None in row or None in row.values():
                raise BadFile(f"{name}, line {line}: {_named(row)} has more or fewer cells than the header line")
            yield line, {key.strip(): _cell(key.strip(), text, name, line) for key, text in row.items() if text}
    except csv.Error as error:
        raise BadFile(f"{name}: not CSV ({error})") from None


def _cell(column: str, text: str, name: str, line: int) -> Any:
    structured = column in _JSON_COLUMNS or column == "reference"
    if not structured or not text.lstrip().startswith(("[", "{")):
        return text
    if column != "reference":
        return parse_json(text.encode(), f"{name}, line {line}, column {column}", MAX_LINE_BYTES)
    try:  # a reference may be JSON (tool calls) or text that only looks like it
        return json.loads(text)
    except ValueError:
        return text


def _with_text_id(row: JsonObject) -> JsonObject:
    number = isinstance(row.get("id"), int) and not isinstance(row["id"], bool)
    return {**row, "id": str(row["id"])} if number else row
