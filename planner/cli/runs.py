"""`planner runs`: list calibration runs, show one, compare two, check a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import Csv, Json, exact, figure, show_table, written
from planner.errors import BadFile

if TYPE_CHECKING:
    from planner.specs.calibration import Calibration
    from planner.specs.run import Run

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A run's id or its beginning, or a file.", show_default=False)
]
Other = Annotated[str, typer.Argument(metavar="OTHER", help="A second run to compare with.", show_default=False)]
DRIFT = 0.05  # change of a time from which a family has drifted


def runs(name: Name = "", other: Other = "", json: Json = False, csv: Csv = "") -> None:
    """List calibration runs; with a name, show one and its fit; with two, compare them."""
    from planner.catalog import runs as catalog

    if name and other:
        _compare(catalog.run(name).run, catalog.run(other).run, json, csv)
    elif name:
        _show(catalog.run(name).run, json, csv)
    else:
        _list(json, csv)


def _list(json: bool, csv: str) -> None:
    from planner.catalog import runs as catalog

    found = catalog.stored_runs()
    rows = [
        {
            "id": run.id,
            "gpu": run.gpu,
            "mode": run.mode.value,
            "age_days": catalog.age_days(run.created),
            "points": len(run.timed()),
            "not_measured": len(run.points) - len(run.timed()),
            "driver": run.environment.driver,
            "torch": run.environment.torch,
        }
        for run in (stored.run for stored in found.runs)
    ]
    for damaged in found.damaged:
        print(f"skipped: {damaged.reason}", file=sys.stderr)
    columns = list(rows[0]) if rows else ["id", "gpu"]
    if not written(columns, rows, json, csv):
        if not rows:
            print("no runs yet; planner calibrate makes one on a machine with a GPU")
            return
        show_table({column: column.replace("_", " ") for column in columns}, rows, exact)


def fitted(run: Run) -> Calibration:
    """The run's calibration. Raises BadFile when its GPU has no profile here."""
    from planner.calibration.fit import fit
    from planner.catalog.runs import gpu_of

    return fit(run, gpu_of(run))


def show_fit(run: Run) -> None:
    """Every family with its rates and its error on held-back points, and what the run leaves to others."""
    from planner.explain.kernels import fit_rows, without_libraries

    rows = fit_rows(fitted(run))
    if rows:
        show_table({column: column.replace("_", " ") for column in rows[0]}, rows)
    if said := without_libraries(run):
        print(said)


def _show(run: Run, json: bool, csv: str) -> None:
    from planner.explain.kernels import anchor_drift_percent, fit_rows, launches

    columns = ["family", "kernel", "points", "t0_us", "gb_per_s", "tflops"]
    columns += ["held_out_median_percent", "held_out_p90_percent"]
    rows = fit_rows(fitted(run))
    if written(columns, rows, json, csv):
        return
    about = run.environment
    print(f"{run.id}: {about.gpu_name}, {run.mode.value}, {run.created}")
    print(f"{len(run.timed())} of {len(run.points)} points; source: {run.source}")
    print(f"driver {about.driver or '–'}, CUDA {about.cuda or '–'}, torch {about.torch or '–'}")
    known = {"power limit W": about.power_limit_w, "ECC": about.ecc, "MIG": about.mig}
    before, after = about.before, about.after
    print(", ".join(f"{name} {figure(value)}" for name, value in known.items()), end="; ")
    print(f"SM MHz {figure(before.sm_mhz)} to {figure(after.sm_mhz)}, ", end="")
    print(f"°C {figure(before.temperature_c)} to {figure(after.temperature_c)}")
    flags = sorted({flag.value for point in run.points for flag in point.flags})
    print(f"flags: {', '.join(flags) or 'none'}; anchor drift {figure(anchor_drift_percent(run))} %")
    if starts := launches(run):
        print(f"a launch: {starts}")
    show_fit(run)


def _compare(first: Run, second: Run, json: bool, csv: str) -> None:
    """Times of the points that both runs hold, by family: the second against the first."""
    from planner.calibration.compare import compared

    changes = compared(first, second)
    rows = [change._asdict() | {"drifted": abs(change.median_change_percent) > 100 * DRIFT} for change in changes]
    if not rows:
        raise BadFile(f"{first.id} and {second.id} have no point in common")
    if not written(list(rows[0]), rows, json, csv):
        for run in (first, second):
            print(f"{run.id}: {run.gpu}, driver {run.environment.driver}, torch {run.environment.torch}")
        show_table({column: column.replace("_", " ") for column in rows[0]}, rows)
