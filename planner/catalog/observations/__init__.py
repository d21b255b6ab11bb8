"""Result files of benchmarks as readings: llama-bench, vllm bench, SGLang, GuideLLM, AIPerf, InferenceX.

readings = read_results("result.json")   # what the file says, checked and bounded, nothing of it kept
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from planner.catalog.files import decoded, parse_json, read_bytes
from planner.catalog.observations import flat, llama_bench, nested
from planner.catalog.observations.reading import Reading
from planner.errors import BadFile

__all__ = ["Reading", "parse_results", "read_results"]

MAX_BYTES = 64 * 2**20  # per-request arrays make results long
MAX_READINGS = 2000
KNOWN = (
    "llama-bench (json, jsonl, csv, md), vllm bench serve, latency or throughput, SGLang's bench_serving or "
    "bench_one_batch, GuideLLM, AIPerf and InferenceX"
)


def read_results(path: str | Path) -> tuple[Reading, ...]:
    """Every configuration in a file; `-` reads standard input. Raises BadFile when it is no such result."""
    if str(path) == "-":
        return parse_results(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
    return parse_results(read_bytes(path, MAX_BYTES), Path(path).name)


def parse_results(data: bytes, where: str) -> tuple[Reading, ...]:
    """The same from bytes; the content says which tool wrote it."""
    if len(data) > MAX_BYTES:
        raise BadFile(f"{where}: more than the {MAX_BYTES} bytes that are read")
    found = []
    for reading in _readings(data, where):
        if reading.measured:
            found.append(reading)
        if len(found) > MAX_READINGS:
            raise BadFile(f"{where}: more than {MAX_READINGS} results; split the file")
    if not found:
        raise BadFile(f"{where}: no result of a benchmark in it; read are {KNOWN}")
    return tuple(found)


def _readings(data: bytes, where: str) -> Iterator[Reading]:
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start in (b"{", b"["):
        for document, place in _documents(data, where):
            yield from _of_document(document, place)
        return
    text = decoded(data, where, MAX_BYTES)
    if "avg_ts" in text.partition("\n")[0]:
        yield from _csv(text, where)
    else:
        yield from llama_bench.from_table(text, where)


def _documents(data: bytes, where: str) -> Iterator[tuple[Any, str]]:
    """A JSON document, or one object per line."""
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines):
        for number, line in enumerate(lines, 1):
            place = f"{where} line {number}"
            yield parse_json(line, place, MAX_BYTES, infinite=True), place
    else:
        yield parse_json(data, where, MAX_BYTES, infinite=True), where


def _of_document(document: Any, where: str) -> Iterator[Reading]:
    if isinstance(document, list):
        for index, item in enumerate(document, 1):
            yield from _of_document(item, f"{where} result {index}")
    elif isinstance(document, Mapping):
        if llama_bench.is_record(document):
            yield llama_bench.from_record(document, where)
        elif nested.is_guidellm(document):
            yield from nested.guidellm(document, where)
        elif nested.is_aiperf(document):
            yield nested.aiperf(document, where)
        elif (reading := flat.from_flat(document, where)) is not None:
            yield reading


def _csv(text: str, where: str) -> Iterator[Reading]:
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for row in rows:
            if None not in row and llama_bench.is_record(row):
                yield llama_bench.from_record(row, f"{where} line {rows.line_num}")
    except csv.Error as error:
        raise BadFile(f"{where}: not CSV ({error})") from None
