"""Requirements on structure: JSON, a JSON schema, tool calls."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

from planner.catalog.files import parse_json
from planner.errors import BadFile

_FENCED = re.compile(r"\A```(?:json)?[ \t]*\n(.*?)\n?```\Z", re.DOTALL | re.IGNORECASE)
_NUMBERS_AGREE = 1e-9  # 1 and 1.0 are one argument


def parsed(output: str) -> tuple[bool, Any]:
    """Whether a text is one JSON document, bare or in one code fence, and the document."""
    text = output.strip()
    fenced = _FENCED.match(text)
    try:
        return True, parse_json((fenced[1] if fenced else text).encode("utf-8", "replace"))
    except BadFile:
        return False, None


def is_json(output: str) -> bool:
    """JSON and nothing else: an object or a list, as programs read it."""
    whole, document = parsed(output)
    return whole and isinstance(document, dict | list)


def schema_fault(schema: object) -> str | None:
    """Why something is not a JSON schema; None when it is one. Schemas elsewhere are not fetched."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    if not isinstance(schema, dict | bool):
        return "needs a schema in the example"
    if _foreign(schema):
        return "has a schema that refers to another document; write it out"
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        where = "/".join(str(part) for part in error.absolute_path)
        return f"has a schema that is not one ({f'at {where}: ' if where else ''}{error.message[:120]})"
    return None


def _foreign(schema: object) -> bool:
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        return (isinstance(reference, str) and not reference.startswith("#")) or any(map(_foreign, schema.values()))
    return isinstance(schema, list) and any(map(_foreign, schema))


def matches_schema(output: str, schema: Any) -> bool:
    """Whether a text is JSON that the schema accepts."""
    whole, document = parsed(output)
    return whole and bool(_validator(json.dumps(schema, sort_keys=True)).is_valid(document))


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    from jsonschema.validators import validator_for

    document = json.loads(schema)
    return validator_for(document)(document)


def expected_calls(reference: object) -> list[dict[str, Any]] | None:
    """The calls that a reference names, one or a list of them; None when it names none rightly."""
    calls = reference if isinstance(reference, list) else [reference]
    read = [_call(call) for call in calls]
    return None if None in read else [call for call in read if call]


def calls_agree(made: Sequence[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """The same names with the same arguments, in any order; an argument may be a whole number written as 1.0."""
    read = [_call(call) for call in made]
    left = list(wanted)
    for call in read:
        match = next((i for i, other in enumerate(left) if call is not None and _same(call, other)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _call(call: object) -> dict[str, Any] | None:
    """`{"name", "arguments"}` of a call, bare or as the OpenAI protocol nests it with arguments as text."""
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        call = call["function"]
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        whole, arguments = parsed(arguments or "{}")
        if not whole:
            return None
    return {"name": call["name"], "arguments": arguments} if isinstance(arguments, dict) else None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b) <= _NUMBERS_AGREE * max(abs(a), abs(b))
    return bool(a == b)
