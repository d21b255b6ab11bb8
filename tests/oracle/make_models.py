"""Read publishers' configs into the bundled models: planner/data/models, one small file for each architecture.

    python tests/oracle/make_models.py CONFIGS [--effective FOLDER]

CONFIGS is a folder of `<owner>--<name>.json` files (the publishers' config.json, ModelOpt's hf_quant_config.json
beside some) with a SOURCES.csv that says where each came from. What is left out, stated otherwise or restated
stands in model_sources.yaml beside this script. Only what the planner reads from a config is written.
With --effective, the configs as they were read are also written to FOLDER, for the parameter oracle.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from planner.catalog.files import read_json, read_yaml, write_atomically
from planner.catalog.hf import model_from_config
from planner.catalog.models import file_name
from planner.params import active_parameters, parameters
from planner.specs.model import ModelSpec, Task

RECIPE = Path(__file__).with_name("model_sources.yaml")
RESTATED = "publisher's config.json (public), restated"
DATA = Path(__file__).parents[2] / "planner" / "data" / "models"


class Source(NamedTuple):
    """A config on its way to a model."""

    id: str
    config: dict[str, Any]
    beside: dict[str, Any] | None
    source: str
    verbatim: bool


def stated(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The config with values set; a dotted name reaches into a nested object."""
    merged = dict(config)
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        merged[outer] = stated(merged.get(outer) or {}, {inner: value}) if inner else value
    return merged


def sources(folder: Path, recipe: dict[str, Any]) -> Iterator[Source]:
    """Every config that is bundled: of the folder, then restated."""
    with (folder / "SOURCES.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if not row["file"].endswith("hf_quant_config.json")]
    for row in rows:
        if row["model_id"] in recipe["excluded"] or row["note"].startswith("DO NOT BUNDLE"):
            continue
        values = recipe["stated"].get(row["model_id"], {})
        beside = folder / row["file"].replace(".json", ".hf_quant_config.json")
        config = json.loads((folder / row["file"]).read_text(encoding="utf-8"))
        quantized = read_json(beside) if beside.is_file() else None
        source = (
            row["source"].split(" ")[0]
            + f": {row['kind']}"
            + (f"; stated besides: {', '.join(values)}" if values else "")
        )
        verbatim = row["kind"].startswith("verbatim") and not values
        yield Source(row["model_id"], stated(config, values), quantized, source, verbatim)
    for model_id, config in recipe["restated"].items():
        yield Source(model_id, config, None, RESTATED, False)


def dumped(model: ModelSpec) -> dict[str, Any]:
    """The fields that differ from their defaults, and which kind each mixer and ffn is."""
    data = model.model_dump(mode="json", exclude_defaults=True)
    for field in ("mixers", "ffns"):
        data[field] = [
            {"kind": spec.kind, **entry} for spec, entry in zip(getattr(model, field), data[field], strict=True)
        ]
    return data


def text(data: dict[str, Any]) -> str:
    """JSON with one line for each field."""
    lines = [f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in data.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(source: Source, task: str | None) -> ModelSpec:
    """The model of a config, with its source."""
    model = model_from_config(source.config, source.id, source.id, source.beside)
    update = {"source": source.source, "verbatim": source.verbatim} | ({"task": Task(task)} if task else {})
    return ModelSpec.model_validate(model.model_copy(update=update).model_dump())


def same_architecture(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether two specs differ in nothing that has weights."""
    return parameters(one) == parameters(other) and (one.mixers, one.ffns) == (other.mixers, other.ffns)


def main() -> None:
    """Write every model, the index and the quantized checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", type=Path)
    parser.add_argument("--effective", type=Path)
    options = parser.parse_args()
    recipe = read_yaml(RECIPE)
    found = list(sources(options.configs, recipe))
    tasks = {source.id: source.config.pop("task", None) for source in found}
    specs = {source.id: read(source, tasks[source.id]) for source in found}
    models = {name: spec for name, spec in specs.items() if name not in recipe["checkpoints"]}
    DATA.mkdir(parents=True, exist_ok=True)
    for stale in DATA.glob("*.json"):
        stale.unlink()
    for name, spec in models.items():
        write_atomically(DATA / file_name(name), text(dumped(spec)))
    checkpoints = {}
    for name, base in recipe["checkpoints"].items():
        if not same_architecture(specs[name], models[base]):
            raise SystemExit(
                f"{name} is not {base}: {parameters(specs[name])} and {parameters(models[base])} parameters"
            )
        own = specs[name].quantization
        assert own is not None, name
        checkpoints[name] = {"model": base, "quantization": own.model_dump(mode="json", exclude_defaults=True)}
    write_atomically(DATA / "checkpoints.json", text(dict(sorted(checkpoints.items()))))
    write_atomically(DATA / "index.json", index(models))
    if options.effective:
        write_effective(options.effective, [source for source in found if source.id in models])


def index(models: dict[str, ModelSpec]) -> str:
    """One line for each model, in the order of `planner.catalog.models.Entry`."""
    rows = [
        [
            name,
            parameters(spec),
            round(active_parameters(spec)),
            spec.max_position,
            str(spec.task),
            spec.quantization.weight_format if spec.quantization else None,
        ]
        for name, spec in sorted(models.items(), key=lambda item: item[0].lower())
    ]
    return "[\n" + ",\n".join(f" {json.dumps(row, separators=(',', ':'))}" for row in rows) + "\n]\n"


def write_effective(folder: Path, found: list[Source]) -> None:
    """The configs as they were read, with a SOURCES.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "SOURCES.csv").open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["file", "model_id", "kind", "source", "note"])
        for source in found:
            (folder / file_name(source.id)).write_text(json.dumps(source.config), encoding="utf-8")
            rows.writerow([file_name(source.id), source.id, "", source.source, ""])


if __name__ == "__main__":
    main()
