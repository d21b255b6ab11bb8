"""Which engine runs which format on which GPU: planner/data/support.yaml, and for our own runner the hardware."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from planner.catalog.files import read_yaml
from planner.errors import UnknownName
from planner.specs.formats import FormatSpec, KvFormatSpec, Level, Support
from planner.specs.gpu import GpuSpec, MathType

DATA = Path(__file__).resolve().parent.parent / "data" / "support.yaml"
CODES = {
    "N": Level.NATIVE,
    "W": Level.WEIGHT_ONLY,
    "E": Level.EMULATED,
    "-": Level.UNSUPPORTED,
    "?": Level.UNKNOWN,
}
REASONS = {
    Level.NATIVE: "{engine} runs {format} on {arch}",
    Level.WEIGHT_ONLY: "{engine} keeps {format} packed on {arch} and computes in 16 bit",
    Level.EMULATED: "{engine} unpacks {format} to 16 bit on {arch}",
    Level.UNSUPPORTED: "{engine} does not run {format} on {arch}",
    Level.UNKNOWN: "no source read says whether {engine} runs {format} on {arch}",
}
OWN_RUNNER = "none"  # runs the bundled kernels themselves
EMULATED_WITHOUT_UNITS = (MathType.BF16, MathType.FP16, MathType.FP32)


class Rule(NamedTuple):
    """One line of the table: what it is about, its code by generation, and why."""

    patterns: tuple[str, ...]
    codes: dict[str, str]
    default: str
    why: dict[str, str]
    source: str

    def names(self, format_id: str) -> bool:
        """Whether the rule is about this format; a pattern `gguf-*` takes all that begin so."""
        return any(p == format_id or (p.endswith("*") and format_id.startswith(p[:-1])) for p in self.patterns)


class EngineTable(NamedTuple):
    """What an engine runs, weight formats and KV formats apart."""

    name: str
    default: str
    default_why: str
    weights: tuple[Rule, ...]
    kv: tuple[Rule, ...]


def _rule(record: dict[str, Any], columns: list[str]) -> Rule:
    codes = dict(zip(columns, record["levels"].split(), strict=True)) | record.get("also", {})
    patterns = record.get("formats") or record["kv"]
    return Rule(tuple(patterns), codes, record.get("default", "?"), record.get("why", {}), record["source"])


@lru_cache(maxsize=1)
def _tables() -> dict[str, EngineTable]:
    data = read_yaml(DATA)
    columns = data["columns"]

    def rules(records: list[dict[str, Any]], key: str) -> tuple[Rule, ...]:
        return tuple(_rule(record, columns) for record in records if key in record)

    return {
        engine: EngineTable(
            table["name"],
            table["default"]["level"],
            table["default"]["why"],
            rules(table["rules"], "formats"),
            rules(table["rules"], "kv"),
        )
        for engine, table in data["engines"].items()
    }


def _hardware(fmt: FormatSpec | KvFormatSpec, gpu: GpuSpec) -> Support:
    """What the GPU's own units can do; a format without units for its operands is unpacked to 16 bit."""
    math = fmt.weight_math if isinstance(fmt, FormatSpec) else fmt.math
    if math is None:
        return Support(Level.WEIGHT_ONLY, f"{fmt.name} is unpacked to 16 bit for arithmetic", fmt.source)
    source = f"matrix rates of the profile {gpu.id}"
    if math in gpu.flops_per_s:
        return Support(Level.NATIVE, f"{gpu.name} has matrix units for {math.value.upper()}", source)
    level = Level.EMULATED if math in EMULATED_WITHOUT_UNITS else Level.WEIGHT_ONLY
    return Support(level, f"{gpu.name} has no matrix units for {math.value.upper()}", source)


def _listed(fmt: FormatSpec | KvFormatSpec, engine: EngineTable, gpu: GpuSpec) -> Support:
    rules = engine.weights if isinstance(fmt, FormatSpec) else engine.kv
    rule = next((rule for rule in rules if rule.names(fmt.id)), None)
    code = rule.codes.get(gpu.generation, rule.default) if rule else engine.default
    level = CODES[code]
    plain = REASONS[level].format(engine=engine.name, format=fmt.name, arch=gpu.arch or gpu.name)
    if rule is None:
        return Support(level, engine.default_why if level is Level.UNSUPPORTED else plain, "")
    return Support(level, rule.why.get(code, plain), rule.source)


def support(fmt: FormatSpec | KvFormatSpec, engine_id: str, gpu: GpuSpec) -> Support:
    """Level, reason and source for a weight or KV format in an engine (`none`: the hardware alone) on a GPU.

    Raises UnknownName for an engine that the table does not hold.
    """
    if engine_id == OWN_RUNNER:
        return _hardware(fmt, gpu)
    table = _tables().get(engine_id)
    if table is None:
        raise UnknownName("engine", engine_id, [*_tables(), OWN_RUNNER], "planner engines lists all")
    return _listed(fmt, table, gpu)
