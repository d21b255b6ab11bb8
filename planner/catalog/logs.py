"""Start-up logs of vLLM, SGLang, TensorRT-LLM and llama.cpp: what the engine took, and what it says of its settings.

    read_log(text)    # -> LogTerms; BadFile for a text that is no engine's log

A log comes from outside: it is bounded, read as text, and every pattern is linear in its length.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import NamedTuple

from planner.catalog.log_patterns import (
    ANCHORS,
    BUFFERS,
    FAULTS,
    FORMATS,
    KV_FORMATS,
    LLAMA_TYPES,
    SETTINGS,
    STARTS,
    TERMS,
    Pick,
)
from planner.catalog.values import Value, number_of, scenario_of, value_of
from planner.errors import BadFile, PlannerError
from planner.units import MIB_PER_GIB

MAX_BYTES = 2 * 2**20
MAX_LINE = 400  # characters of a line that are shown
MOST_MATCHES = 2048  # of one pattern
_COLOURS = re.compile(r"\x1b\[[0-9;]{0,16}m")
_FILE_TYPE = re.compile(r"-((?:UD-)?(?:I?Q\d\w{0,8}|BF16|F16|F32|MXFP4))(?:-\d{5}-of-\d{5})?\.gguf$", re.IGNORECASE)


class LogLine(NamedTuple):
    """A line of the log, from 1."""

    number: int
    text: str


class LogTerm(NamedTuple):
    """A figure that the log states for one GPU: an estimate's column, or several that it states together."""

    columns: tuple[str, ...]
    value: float
    line: LogLine


class LogTerms(NamedTuple):
    """What a start-up log says."""

    engine: str
    settings: Mapping[str, Value]  # scenario columns
    terms: tuple[LogTerm, ...]
    fault: LogLine | None = None  # why the engine did not start, where the log says so


class _Text(NamedTuple):
    text: str
    lines_before: int = 0  # of what was cut off

    def line(self, at: int) -> LogLine:
        """The line around an offset; of a long one the part where the figure stands."""
        first = max(self.text.rfind("\n", 0, at) + 1, at - MAX_LINE // 4)
        shown = self.text[first : first + MAX_LINE].partition("\n")[0]
        shown = "".join(character if character.isprintable() else " " for character in shown)
        return LogLine(self.text.count("\n", 0, at) + 1 + self.lines_before, shown.strip())


def read_log(data: str | bytes, where: str = "log") -> LogTerms:
    """Read an engine's start-up log. Raises BadFile where it is too long, not text, or no engine's log."""
    found = _text(data, where)
    counts = {engine: sum(anchor in found.text for anchor in anchors) for engine, anchors in ANCHORS.items()}
    engine = max(counts, key=lambda name: counts[name])
    last = _last_start(engine, found)
    terms = _terms(engine, last) if counts[engine] else ()
    fault = _fault(found) if counts[engine] else None
    if not terms and fault is None:
        raise BadFile(
            f"{where}: no figures of vLLM, SGLang, TensorRT-LLM or llama.cpp in it; paste the lines from start to "
            "'Available KV cache memory', 'KV Cache is allocated' or 'KV buffer size'"
        )
    return LogTerms(engine, _settings(engine, last, found), terms, fault)


def _last_start(engine: str, found: _Text) -> _Text:
    """The log from the last start on that has figures; all of it where there is none."""
    patterns = (re.compile(text) for text in STARTS[engine])
    starts = next(filter(None, ([m.start() for m in _matches(one, found.text)] for one in patterns)), [])
    for at in reversed(starts[1:]):
        cut = _Text(found.text[at:], found.text.count("\n", 0, at))
        if _terms(engine, cut):
            return cut
    return found


def _text(data: str | bytes, where: str) -> _Text:
    if len(data) > MAX_BYTES:
        raise BadFile(f"{where}: {len(data)} bytes, more than the {MAX_BYTES} that are read; cut it after the start-up")
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    if "\0" in text:
        raise BadFile(f"{where}: not text (it holds NUL bytes)")
    text = _COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _Text(text)


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    for _, found in zip(range(MOST_MATCHES), pattern.finditer(text), strict=False):
        yield found


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _terms(engine: str, found: _Text) -> tuple[LogTerm, ...]:
    """Each figure once: ranks that differ count as the one that limits the engine."""
    out: dict[tuple[str, ...], LogTerm] = {}
    for pattern, columns, pick in TERMS[engine]:
        each = [(sum(map(_number, match.groups())), match.start()) for match in _matches(pattern, found.text)]
        if each and columns not in out:
            value, at = each[-1] if pick is Pick.LAST else (max if pick is Pick.LARGEST else min)(each)
            out[columns] = LogTerm(columns, value, found.line(at))
    return (*out.values(), *(_buffers(found) if engine == "llama.cpp" else ()))


def _buffers(found: _Text) -> Iterator[LogTerm]:
    """llama.cpp's buffers in GiB, all of the GPU that holds most; lines of the same device added up."""
    sizes: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))  # by column and device
    lines: dict[tuple[str, str], int] = {}
    for pattern, column in BUFFERS:
        for match in _matches(pattern, found.text):
            if not is_host(match[1]):
                sizes[column][match[1]] += _number(match[2])
                lines.setdefault((column, match[1]), match.start())
    totals: dict[str, float] = defaultdict(float)
    for column, each in sizes.items():
        for device, size in each.items():
            totals[device] += size if column != "activation_gib" else 0.0
    for column, each in sizes.items():
        device = max(each, key=lambda name: totals[name])
        yield LogTerm((column,), each[device] / MIB_PER_GIB, found.line(lines[column, device]))


def is_host(device: str) -> bool:
    """Whether llama.cpp means host memory by this name of a buffer."""
    return device.startswith("CPU") or device.endswith("_Host") or device in ("BLAS", "AMX")


def _fault(found: _Text) -> LogLine | None:
    first = (match for pattern in FAULTS for match in _matches(pattern, found.text))
    match = next(first, None)
    return found.line(match.start()) if match else None


def _settings(engine: str, last: _Text, found: _Text) -> dict[str, Value]:
    """Scenario columns that the last start states, else the log; what cannot be a column's value is left out."""
    raw: dict[str, str] = {}
    for source in (last, found):
        for pattern, column in SETTINGS[engine]:
            match = next(_matches(pattern, source.text), None)
            if match and column not in raw:
                raw[column] = match[1].strip()
    settings: dict[str, Value] = {"engine": engine}
    for column, text in _finished(engine, raw, last).items():
        try:
            value = value_of(column, text)
            scenario_of({column: value} if value is not None else {})
        except PlannerError:
            continue
        if value is not None:
            settings[column] = value
    return settings


def _finished(engine: str, raw: dict[str, str], found: _Text) -> dict[str, str]:
    """Names of the engine as ours."""
    done = {column: text for column, text in raw.items() if not column.startswith("_")}
    if "_quantization" in raw and raw["_quantization"] in FORMATS:
        done["weight_format"] = FORMATS[raw["_quantization"]]
    if raw.get("_dtype") == "float32" and "weight_format" not in done:
        done["weight_format"] = "fp32"
    if "_kv" in raw and raw["_kv"] in KV_FORMATS:
        done["kv_format"] = KV_FORMATS[raw["_kv"]]
    if "model" in done:
        done["model"] = name_of(done["model"])
    if "draft_model" not in done:
        done.pop("speculative_tokens", None)
    return _llama(done, raw, found) if engine == "llama.cpp" else done


def name_of(model: str) -> str:
    """A hub id as it is; of a path its last part, or user and name out of a hub cache (ModelScope writes ___ for .)."""
    model = model.replace("___", ".")
    cached = re.search(r"models--([^/\\]{1,200}?)--([^/\\]{1,200})", model)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    if model.count("/") == 1 and not model.startswith(("/", ".", "~")):
        return model
    return PureWindowsPath(PurePosixPath(model.rstrip("/\\")).name).name


def _llama(done: dict[str, str], raw: dict[str, str], found: _Text) -> dict[str, str]:
    """Model and type from the file's name or from what it says of itself; slots, layers and GPUs."""
    named = _FILE_TYPE.search(raw.get("_file", ""))
    kind = named[1] if named else LLAMA_TYPES.get(raw.get("_type", "").strip().upper(), "")
    if kind:
        done["weight_format"] = f"gguf-{kind.lower().removeprefix('ud-')}"
    if named:
        done["model"] = name_of(raw["_file"][: named.start()])
    streams = int(raw.get("_streams") or raw.get("_slots") or 1) or 1
    slots = max(streams, int(raw.get("_slots") or 1)) if " RS buffer size" in found.text else streams
    cells = raw.get("_cells") or raw.get("_context")
    if cells:  # of one stream; sequences share them, but each has a recurrent state of its own
        done["max_model_len"] = str(int(cells) // (slots // streams if "_cells" in raw else slots) or 1)
        done["parallel_slots"] = str(slots)
    if "_flash" in raw:
        done["flash_attention"] = "yes" if raw["_flash"] in ("1", "enabled") else "no"
    if "_k" in raw and "_v" in raw:
        pair = [{"f16": "fp16", "f32": "fp32"}.get(raw[side], raw[side]) for side in ("_k", "_v")]
        done["kv_format"] = pair[0] if pair[0] == pair[1] else "/".join(pair)
    if "_offloaded" in raw and int(raw["_offloaded"]) < int(raw.get("_layers", "0")):
        done["n_gpu_layers"] = raw["_offloaded"]
    if "_vram" in raw:
        done["device_gib"] = repr(number_of("device_gib", raw["_vram"]) / MIB_PER_GIB)
    gpus = {match[1] for match in _matches(BUFFERS[0][0], found.text) if not is_host(match[1])}
    return done | ({"n_gpus": str(len(gpus))} if len(gpus) > 1 else {})
