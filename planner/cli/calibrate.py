"""`planner calibrate`: measure this machine's GPUs and write calibration runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.output import NO_VALUE, console

if TYPE_CHECKING:
    from planner.calibration.run import Progress

Quick = Annotated[bool, typer.Option("--quick", metavar=NO_VALUE, help="A third of the points, under a minute.")]
RunsDir = Annotated[
    str, typer.Option(metavar="FOLDER", help="Where runs go; blank: this checkout, else your data folder.")
]
Gpu = Annotated[list[int] | None, typer.Option("--gpu", metavar="INDEX", help="Only this GPU; may be repeated.")]
Resume = Annotated[bool, typer.Option("--resume", metavar=NO_VALUE, help="Go on with an interrupted run.")]
Force = Annotated[bool, typer.Option("--force", metavar=NO_VALUE, help="Measure a GPU that others use, too.")]
Bundled = Annotated[
    bool, typer.Option("--bundled", metavar=NO_VALUE, help="The bundled kernels alone: no torch is needed.")
]
STEP_S = 10.0  # between two lines where no terminal shows a bar


def calibrate(
    quick: Quick = False,
    runs_dir: RunsDir = "",
    gpu: Gpu = None,
    resume: Resume = False,
    force: Force = False,
    bundled: Bundled = False,
) -> None:
    """Measure this machine's GPUs with the bundled kernels and torch; write one file per GPU."""
    from planner.calibration.process import Wish, collective_points, in_child, machine, refuse_busy
    from planner.catalog.runs import default_dir
    from planner.specs.run import Mode

    found = machine(tuple(gpu or ()), bundled)
    refuse_busy(found, force)
    folder = Path(runs_dir) if runs_dir else default_dir()
    points = () if bundled else collective_points(found, quick)
    for card in found.cards:
        wish = Wish(Mode.QUICK if quick else Mode.FULL, folder, resume, force, points, bundled=bundled)
        try:
            with _bar(f"GPU {card.number} {card.name}") as show:
                path = in_child(card.number, wish, show)
        except KeyboardInterrupt:
            print("interrupted; --resume goes on from the last point", file=sys.stderr)
            raise
        print(path)
        _say_fit(path)


@contextmanager
def _bar(title: str) -> Iterator[Callable[[Progress], None]]:
    """A progress bar with the time left; where nobody watches, a line now and then."""
    if not sys.stderr.isatty():
        yield _Lines(title).show
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TextColumn("{task.fields[label]}"), console=console(True)) as bar:
        task = bar.add_task(title, total=None, label="")
        yield lambda at: bar.update(task, completed=at.done, total=at.total, label=_words(at))


def _words(at: Progress) -> str:
    """Time left where it is known, and what is being measured."""
    return at.label if at.left_s is None else f"{at.left_s:.0f} s left, {at.label}"


class _Lines:
    """Progress as lines on standard error."""

    def __init__(self, title: str) -> None:
        self.title, self.start, self.said = title, time.monotonic(), -STEP_S

    def show(self, at: Progress) -> None:
        passed = time.monotonic() - self.start
        if passed - self.said >= STEP_S or at.done == at.total:
            self.said = passed
            print(f"{self.title}: {at.done}/{at.total}, {_words(at)}", file=sys.stderr, flush=True)


def _say_fit(path: Path) -> None:
    """What the run is worth: every family with its rates and its error on held-back points."""
    from planner.catalog.runs import read_run
    from planner.cli.runs import show_fit

    show_fit(read_run(path))
