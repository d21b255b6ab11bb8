"""`planner models`, `gpus`, `formats`, `engines`: list what is known; with a name, show one with its sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from planner.cli.output import Cells, Csv, Json, console, exact, show_table, written
from planner.report import json_text
from planner.units import BILLION, GB, GIB

Name = Annotated[str, typer.Argument(metavar="NAME", help="Show this one.", show_default=False)]
Version = Annotated[str, typer.Option(help="Constants at this version; blank: the newest.", show_default=False)]


def models(name: Name = "", json: Json = False, csv: Csv = "") -> None:
    """List the bundled models; with a name, an alias or a path, show its architecture and parameters."""
    from planner.catalog import models as catalog
    from planner.params import active_parameters, parameters, parameters_by_role

    if not name:
        rows = [
            {
                "id": entry.id,
                "parameters_billion": entry.parameters / BILLION,
                "active_billion": entry.active_parameters / BILLION,
                "max_context_tokens": entry.max_position,
                "weight_format": entry.weight_format,
                "task": entry.task,
            }
            for entry in catalog.model_index()
        ]
        _list(rows, json, csv)
        return
    found = catalog.resolve(name)
    counted = {
        "checkpoint": found.checkpoint,
        "weight_format": found.weight_format,
        "parameters": parameters(found.model),
        "active_parameters": active_parameters(found.model),
        "parameters_by_role": {str(role): count for role, count in parameters_by_role(found.model).items()},
    }
    _show(counted | found.model.model_dump(mode="json", exclude_none=True), json, csv)


def gpus(name: Name = "", json: Json = False, csv: Csv = "") -> None:
    """List the accelerators; with a name, show every figure with its source and what other sources say."""
    from planner.catalog import gpus as catalog

    if name:
        _show(catalog.profile(name).model_dump(mode="json", exclude_none=True), json, csv)
        return
    rows = []
    for id_ in catalog.gpu_ids():
        gpu = catalog.gpu(id_)
        rows.append(
            {
                "id": gpu.id,
                "name": gpu.name,
                "arch": gpu.arch,
                "memory_gib": gpu.device_bytes / GIB,
                "memory_from": gpu.device_bytes_kind,
                "bandwidth_gb_per_s": gpu.bandwidth_bytes_per_s / GB,
                **{f"{kind}_tflops": rate / 1e12 for kind, rate in _rates(gpu.flops_per_s)},
                "usd_per_hour": gpu.price.usd_per_hour if gpu.price else None,
            }
        )
    _list(rows, json, csv)


def _rates(flops_per_s: Mapping[Any, float]) -> Iterator[tuple[str, float]]:
    wanted = ("bf16", "fp8", "int8", "fp4")
    return ((kind, flops_per_s[kind]) for kind in wanted if kind in flops_per_s)


def formats(name: Name = "", json: Json = False, csv: Csv = "") -> None:
    """List weight and KV formats with the field's other words for them; with a name, show its exact layout."""
    from planner.catalog import formats as catalog

    weights, caches = catalog.weight_format_ids(), catalog.kv_format_ids()
    if name:
        found = catalog.kv_format(name)[0] if name in caches and name not in weights else catalog.weight_format(name)
        _show(found.model_dump(mode="json", exclude_none=True), json, csv)
        return
    rows: list[dict[str, object]] = []
    for spec in (catalog.weight_format(id_) for id_ in weights):
        bits = spec.packing.bits if spec.packing else None
        rows.append(
            {"for": "weights", "id": spec.id, "name": spec.name, "bits": bits, "also": ", ".join(spec.other_names)}
        )
    for cache in (catalog.kv_format(id_)[0] for id_ in caches):
        bits, also = cache.bytes_per_value * 8, ", ".join(cache.other_names)
        rows.append({"for": "kv cache", "id": cache.id, "name": cache.name, "bits": bits, "also": also})
    _list(rows, json, csv)


def engines(name: Name = "", version: Version = "", json: Json = False, csv: Csv = "") -> None:
    """List the engines; with a name, show the constants of one version with their sources."""
    from planner.catalog import engines as catalog

    if not name:
        specs = [catalog.engine(id_, None) for id_ in catalog.engine_ids()]
        _list([{"id": spec.id, "name": spec.name, "newest_known": spec.version} for spec in specs], json, csv)
        return
    rows = [
        {"constant": item.name, **item.constant.model_dump(mode="json")}
        for item in catalog.engine_constants(name, version or None)
    ]
    _list(rows, json, csv)


def _list(rows: Sequence[Cells], json: bool, csv: str) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not written(columns, rows, json, csv):
        show_table({column: column.replace("_", " ") for column in columns}, rows, most=len(rows))


def _show(document: dict[str, Any], json: bool, csv: str) -> None:
    """One entry: JSON as it is; else a line per value, its source beside it."""
    if json and not csv:
        print(json_text(document), end="")
        return
    rows = list(_lines("", document))
    if written(["field", "value", "source"], rows, json, csv):
        return
    from rich.text import Text

    out = console()
    width = min(max(len(str(row["field"])) for row in rows), 44)
    for row in rows:
        line = Text(f"{row['field']:<{width}}  {exact(row['value'])}")
        line.append(f"  [{row['source']}]" if row["source"] else "", style="dim")
        out.print(line, soft_wrap=True)


def _lines(path: str, node: Any) -> Iterator[dict[str, object]]:
    """Every leaf of a document with its path; a sourced figure is one leaf."""
    if isinstance(node, dict) and "value" in node:
        about = (node.get("field"), node.get("kind"), node.get("source"), node.get("note"))
        yield {"field": path, "value": node["value"], "source": "; ".join(str(part) for part in about if part)}
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _lines(f"{path}.{key}".lstrip("."), child)
    elif isinstance(node, list) and any(isinstance(item, dict | list) for item in node):
        for index, child in enumerate(node):
            yield from _lines(f"{path}[{index}]", child)
    elif node not in ("", [], {}):
        value = ", ".join(str(item) for item in node) if isinstance(node, list) else node
        yield {"field": path, "value": value, "source": ""}
