"""`planner validate`: a real transformer with random weights on this machine's GPU, predicted against measured."""

from __future__ import annotations

import os
import sys
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.output import Csv, Json, show_table, written
from planner.errors import PlannerError

if TYPE_CHECKING:
    from planner.calibration.environment import Card
    from planner.calibration.validate import ComparedStep

Model = Annotated[list[str] | None, typer.Option(help="A bundled model; may be repeated.", show_default=False)]
Format = Annotated[
    list[str] | None,
    typer.Option("--weight-format", help="bf16, fp8 or w4a16-g128; may be repeated.", show_default=False),
]
Gpu = Annotated[int, typer.Option("--gpu", metavar="INDEX", help="On this GPU.")]
MODELS, FORMATS = ("llama-3.1-8b",), ("bf16",)


def validate(
    model: Model = None, weight_format: Format = None, gpu: Gpu = 0, json: Json = False, csv: Csv = ""
) -> None:
    """Run prefill and decode of a model's real shapes on this GPU; print predicted and measured step times and memory.

    There is no engine around it: this checks the operator model, and is never an engine's accuracy.
    """
    from planner.calibration.process import VISIBLE, machine

    found = machine((gpu,))
    os.environ[VISIBLE] = found.cards[0].uuid
    compared: list[ComparedStep] = []
    failed = ""
    for name in model or MODELS:
        for format_id in weight_format or FORMATS:
            try:
                steps = _on_gpu(found.driver, found.cards[0], name, format_id)
            except (PlannerError, RuntimeError) as error:  # torch's own: the models before it are worth having
                failed = " ".join(str(error).split())[:300]
                print(f"left out: {name}, {format_id}: {failed}", file=sys.stderr)
                continue
            compared += steps
            print(f"{name}, {format_id}: {len(steps)} steps, {_middle_error(steps)} off", file=sys.stderr)
    if not compared:
        raise PlannerError(failed or "no step fits the memory of this GPU")
    rows = [row._asdict() | _errors_percent(row) for row in compared]
    if not written(list(rows[0]), rows, json, csv):
        show_table({column: column.replace("_", " ") for column in rows[0]}, rows)


def _middle_error(rows: list[ComparedStep]) -> str:
    return f"{100 * median(abs(row.error) for row in rows):.1f} %" if rows else "nothing"


def _errors_percent(row: ComparedStep) -> dict[str, float]:
    memory = row.predicted_bytes / row.measured_bytes - 1
    return {"error_percent": 100 * row.error, "memory_error_percent": 100 * memory}


def _on_gpu(driver: Any, card: Card, name: str, format_id: str) -> list[ComparedStep]:
    from planner.calibration.graphs import Tuner
    from planner.calibration.kernels.launch import Launcher
    from planner.calibration.profile import describe
    from planner.calibration.transformer import Setting
    from planner.calibration.validate import Instruments, Predictor, compare, graph_s, shapes
    from planner.catalog import models
    from planner.estimate.evidence import source_for

    launcher = Launcher(0)
    spec, model = describe(card, driver).spec, models.model(name)
    predictor = Predictor(model, format_id, spec, source_for(spec))
    launcher.torch.cuda.empty_cache()  # what the model before left
    free = launcher.torch.cuda.mem_get_info()[0] - predictor.weight_bytes()
    setting = Setting(launcher.torch, launcher.target, format_id, Tuner(launcher))
    instruments = Instruments(graph_s(launcher.torch), lambda: float(launcher.torch.cuda.memory_allocated()))
    wanted = list(shapes(model, free))
    rows = compare(predictor, setting, wanted, instruments)
    if len(rows) < len(wanted):
        print(f"{name}, {format_id}: {len(wanted) - len(rows)} steps did not fit the memory", file=sys.stderr)
    return rows
