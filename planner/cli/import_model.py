"""`planner import-model`: a checkpoint's headers as a model spec with exact weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.output import Csv, Json, console, exact, show_table, written
from planner.report import json_text
from planner.units import GIB

if TYPE_CHECKING:
    from planner.catalog.headers.imported import Imported
    from planner.specs.model import ModelSpec

BITS = 8
Source = Annotated[
    str,
    typer.Argument(
        metavar="PATH_OR_ID",
        help="A .gguf or .safetensors file, a checkpoint folder, a config.json, or owner/name on the hub.",
        show_default=False,
    ),
]
Out = Annotated[
    str, typer.Option("--out", metavar="FILE", help="Write the model spec; --model FILE reads it.", show_default=False)
]


def import_model(source: Source, out: Out = "", json: Json = False, csv: Csv = "") -> None:
    """Read a checkpoint's headers: parameters, exact bytes by class, format, differences to the bundled model.

    Nothing but headers is read. Only a name that is no path goes to the hub; that needs the extra `models`.
    """
    from planner.catalog.files import write_atomically

    model, imported = _read(source)
    if out:
        write_atomically(out, json_text(model.model_dump(mode="json", exclude_none=True)))
    about = _about(model, imported)
    rows = list(_classes(model))
    if json and not csv:
        print(json_text(about | {"classes": rows}), end="")
    elif not written(list(rows[0]), rows, json, csv):
        _show(about, rows)


def _read(source: str) -> tuple[ModelSpec, Imported | None]:
    """The spec, and what the headers say where there are any."""
    from planner.catalog import models
    from planner.catalog.headers.hub import import_repository
    from planner.catalog.headers.imported import read_path

    if not Path(source).exists():
        imported = import_repository(source)
        return imported.model, imported
    found = read_path(Path(source))
    return (found.model, found) if found else (models.read(Path(source)), None)


def _about(model: ModelSpec, imported: Imported | None) -> dict[str, Any]:
    """Everything but the table of classes."""
    from planner.catalog import models
    from planner.catalog.headers.compare import nearest
    from planner.estimate.defaults import own_format
    from planner.params import active_parameters, parameters

    like = nearest(model, ((entry.id, entry.parameters) for entry in models.model_index()), models.model)
    about: dict[str, Any] = {
        "id": model.id,
        "architecture": model.architecture or model.model_type,
        "weight_format": model.exact.weight_format if model.exact else own_format(model),
        "parameters": parameters(model),
        "active_parameters": active_parameters(model),
        "max_context_tokens": model.max_position,
        "bundled": like.id if like else None,
        "differences": [{"field": f, "here": here, "bundled": there} for f, here, there in like.differences]
        if like
        else [],
    }
    return about | (_weights(imported) if imported else {})


def _weights(imported: Imported) -> dict[str, Any]:
    stored, found = imported.model.exact, imported.placement
    return {
        "files": len(imported.headers),
        "stored_bytes": imported.stored_bytes,
        "loaded_bytes": stored.total_bytes if stored else 0,
        "prediction_bytes": found.mtp_bytes,
        "never_loaded_bytes": found.unloaded_bytes,
        "bytes_by_type": imported.dtypes(),
        "data_complete": imported.whole,
        "not_in_architecture": [tensor.name for tensor in found.unplaced],
        "not_in_files": list(found.missing),
    }


def _classes(model: ModelSpec) -> list[dict[str, object]]:
    """Parameters and bytes by class of tensor, the largest first, and all together."""
    from planner.catalog.formats import weight_format
    from planner.estimate.defaults import own_format
    from planner.formats import tensor_bytes
    from planner.params import tensors

    name = model.exact.weight_format if model.exact else own_format(model)
    counts: dict[str, tuple[int, float]] = {}
    for tensor, size in zip(tensors(model), tensor_bytes(model, weight_format(name)), strict=True):
        held = counts.get(tensor.role, (0, 0.0))
        counts[tensor.role] = (held[0] + tensor.numel, held[1] + float(size))
    total = (sum(count for count, _ in counts.values()), sum(size for _, size in counts.values()))
    ordered = sorted(counts.items(), key=lambda pair: -pair[1][1])
    return [_line(str(role), *held) for role, held in ordered] + [_line("all", *total)]


def _line(role: str, count: int, size: float) -> dict[str, object]:
    bits = BITS * size / count if count else None
    return {"class": role, "parameters": count, "bytes": int(size), "gib": size / GIB, "bits_per_parameter": bits}


def _show(about: Mapping[str, Any], rows: list[dict[str, object]]) -> None:
    out = console()
    for name, value in about.items():
        if name != "differences" and value not in ([], None):
            text = (
                ", ".join(f"{k} {v:,}" for k, v in value.items()) if isinstance(value, dict) else exact(_short(value))
            )
            out.print(f"{name.replace('_', ' '):<20}  {text}", soft_wrap=True)
    if about["bundled"]:
        _show_differences(about, out)
    show_table(
        {"class": "class", "parameters": "parameters", "bytes": "bytes", "gib": "GiB", "bits_per_parameter": "bits"},
        rows,
    )


def _show_differences(about: Mapping[str, Any], out: Any) -> None:
    for item in about["differences"]:
        out.print(f"{'differs':<20}  {item['field']}: {item['here']} here, {item['bundled']} there", soft_wrap=True)
    if not about["differences"]:
        out.print(f"{'differs':<20}  in nothing", soft_wrap=True)


_SHOWN = 6  # names of a list


def _short(value: Any) -> Any:
    if isinstance(value, list) and len(value) > _SHOWN:
        return [*value[:_SHOWN], f"and {len(value) - _SHOWN} more"]
    return value
