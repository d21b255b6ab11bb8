"""Everything that only a GPU can show, in one go: `make gpu-check OUT=folder`, about ten minutes on an H200.

    python -m tests.gpu.check OUT            # every step; a failed one does not stop the others
    python -m tests.gpu.check OUT --within 540 --only compile,kernels,full
    python -m tests.gpu.check OUT --read RUN.json    # the table of a run, without a GPU

Leaves at most eight files in OUT: summary.txt, log.txt, the runs and their GPU's profile, validate.csv, golden.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from planner.catalog.efficiency import peak_rates
from planner.catalog.gpus import gpu
from planner.catalog.paths import profiles_dir, user_profiles_dir
from planner.errors import PlannerError
from planner.specs.gpu import GpuSpec
from planner.specs.run import AttentionShape, ExpertShape, GemmShape, Mode, Point, Run, Status, StreamShape

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("llama-3.1-8b", "Qwen/Qwen3-32B", "Qwen/Qwen3-30B-A3B")
FORMATS = ("bf16", "fp8", "w4a16-g128")
WORKERS = 6  # processes that check kernels: their references are computed on the host
BEYOND_L2, COMPUTE_TOKENS, COMPUTE_SIDE = 2, 4096, 6144
ALONE = ("--noconftest", "-W", "default", "-p", "no:cacheprovider")  # no test extra, and torch may warn as it likes
TAIL = 30  # lines of a failed step that the summary repeats
STOP_S = 20.0  # that a step which is stopped may take to say how far it came
WIDTH = 150  # of what the summary repeats: 12,000 characters of its end may be all that one is shown
MOST_LOST = 20  # kinds of lost points that the summary names


class Step(NamedTuple):
    """A command, what it is for, the seconds that it needs at least to be worth starting, and those it may take."""

    name: str
    command: tuple[str, ...]
    least_s: float
    most_s: float
    about: str


class Done(NamedTuple):
    """How a step ended. `code` None: not started."""

    step: Step
    code: int | None
    took_s: float
    said: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        return {0: "ok", None: "skipped", 124: "out of time"}.get(self.code, f"exit {self.code}")


def steps(work: Path, bundled: bool = False) -> list[Step]:
    """In the order of what is worth most when time runs out; `bundled`: those that need no torch."""
    python, runs = sys.executable, str(work / "runs")
    tests = (python, "-m", "pytest", "-q", *ALONE, "-m", "gpu")
    spread = ("-n", str(WORKERS)) if _has("xdist") else ()
    calibrate = (python, "-m", "planner", "calibrate")
    found = [
        Step("compile", (python, "-m", "tests.gpu.check", str(work), "--compile"), 20, 60, "machine code, cold cache"),
        Step("kernels", (*tests, *spread, "tests/gpu/test_kernels_gpu.py"), 60, 180, "every tile against a reference"),
        Step("full", (*calibrate, "--runs-dir", runs), 100, 270, "the run"),
    ]
    alone = Step("alone", (*calibrate, "--bundled", "--quick", "--runs-dir", str(work / "alone")), 30, 90, "no torch")
    if bundled:
        whole = (*calibrate, "--bundled", "--runs-dir", runs)
        return [found[0], Step("full", whole, 60, 270, "the run, bundled kernels alone"), alone]
    for model in MODELS:
        name, table = model.split("/")[-1], str(work / f"{model.split('/')[-1]}.csv")
        formats = [part for name_of in FORMATS for part in ("--weight-format", name_of)]
        command = (python, "-m", "planner", "validate", "--model", model, *formats, "--csv", table)
        found.append(Step(f"validate {name}", command, 30, 150, "steps predicted and measured"))
    quick = (*calibrate, "--quick", "--runs-dir", str(work / "quick"))
    found.append(Step("quick", quick, 30, 90, "a third of the points"))
    found.append(alone)
    found.append(Step("suite", (*tests, "tests/gpu/test_suite.py"), 60, 180, "two quick runs agree"))
    return found


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def run_steps(wanted: Iterable[Step], environment: dict[str, str], log: Path, within_s: float) -> list[Done]:
    """Each step after the other, whatever becomes of it, while there is time; what they say goes to the log."""
    end, done = time.monotonic() + within_s, []
    for step in wanted:
        left = end - time.monotonic()
        if left < step.least_s + STOP_S:
            done.append(Done(step, None, 0.0))
            continue
        print(f"{step.name}: {step.about} ...", flush=True)
        done.append(_run(step, environment, log, min(left - STOP_S, step.most_s)))
        print(f"{step.name}: {done[-1].word} after {done[-1].took_s:.0f} s", flush=True)
    return done


def _run(step: Step, environment: dict[str, str], log: Path, most_s: float) -> Done:
    start, before = time.monotonic(), log.stat().st_size if log.exists() else 0
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n== {step.name}: {' '.join(step.command)}\n")
        file.flush()
        try:
            where: dict[str, Any] = {"cwd": ROOT, "env": environment, "stdout": file, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(step.command, start_new_session=True, **where)
            code = process.wait(timeout=most_s)
        except subprocess.TimeoutExpired:
            code = 124
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started may still hold the GPU
        process.wait()
    said = log.read_bytes()[before:].decode("utf-8", "replace").splitlines()
    return Done(step, code, time.monotonic() - start, tuple(said[-TAIL:]))


def compile_cold() -> int:
    """Machine code of everything that the full suite may time on this GPU, from an empty cache."""
    from planner.calibration.environment import Driver, nvml
    from planner.calibration.kernels.catalogue import KERNELS
    from planner.calibration.kernels.compile import compile_all

    driver = Driver(nvml())
    major, minor = driver.ask("nvmlDeviceGetCudaComputeCapability", driver.cards()[0].handle)
    pairs = [(kernel, tile) for kernel in KERNELS for tile in kernel.tiles_for(10 * major + minor)]
    start = time.monotonic()
    compile_all(pairs, 10 * major + minor)
    took = time.monotonic() - start
    print(f"{len(pairs)} variants for sm_{major}{minor} in {took:.1f} s on {os.cpu_count()} processors")
    return 0


# What a run says, as fractions of what the hardware allows.


class Target(NamedTuple):
    """A kernel's points whose fraction of the limit is stated, and what it should be on an H200."""

    name: str
    kernel: str
    takes: Callable[[Any], bool]
    least: float
    of: str = "bytes"


def _tokens(low: int, high: int) -> Callable[[Any], bool]:
    return lambda shape: isinstance(shape, GemmShape) and low <= shape.m <= high


def _any(shape: Any) -> bool:
    return isinstance(shape, StreamShape | AttentionShape | ExpertShape)


def _large(shape: Any) -> bool:
    return isinstance(shape, GemmShape) and shape.m >= COMPUTE_TOKENS and min(shape.n, shape.k) >= COMPUTE_SIDE


TARGETS = (
    Target("read", "stream-read", _any, 0.92),
    Target("copy", "stream-copy", _any, 0.85),
    Target("16-bit weights", "w16a16", _tokens(1, 16), 0.85),
    Target("16-bit weights, cuBLASLt", "torch.mm", _tokens(1, 16), 0.82),
    Target("FP8 weights", "w8a16-fp8", _tokens(1, 16), 0.85),
    Target("FP8 products, cuBLASLt", "torch.scaled-mm", _tokens(1, 16), 0.75),
    Target("INT8 weights", "w8a16-int8", _tokens(1, 16), 0.85),
    Target("W4A16 to 8 tokens", "w4a16", _tokens(1, 8), 0.80),
    Target("W4A16 at 16 tokens", "w4a16", _tokens(16, 16), 0.75),
    Target("MXFP4 weights", "w4a16-mxfp4", _tokens(1, 8), 0.75),
    Target("NVFP4 weights", "w4a16-nvfp4", _tokens(1, 8), 0.75),
    Target("Q8_0", "gguf-q8_0", _tokens(1, 8), 0.75),
    Target("Q4_K", "gguf-q4_k", _tokens(1, 8), 0.75),
    Target("decode, 16-bit cache", "decode-bf16", _any, 0.80),
    Target("decode, FP8 cache", "decode-fp8", _any, 0.65),
    Target("decode, latent cache", "decode-mla-bf16", _any, 0.50),
    Target("16-bit products", "torch.mm", _large, 0.78, "flops"),
    Target("FP8 products", "torch.scaled-mm", _large, 0.60, "flops"),
    Target("16-bit products, bundled", "mma-bf16", _large, 0.55, "flops"),
)


class Fraction(NamedTuple):
    """Of the limit: the median and the best over the points of a target."""

    target: Target
    points: int
    median: float
    best: float


def fractions(run: Run, spec: GpuSpec) -> list[Fraction]:
    """Every target's points that read well beyond the cache, as a fraction of the profile's bandwidth or rate."""
    beyond = BEYOND_L2 * (run.environment.l2_bytes or spec.l2_bytes or 0)
    found = []
    for target in TARGETS:
        points = [point for point in run.timed() if point.kernel == target.kernel and target.takes(point.shape)]
        values = [_fraction(point, spec, target) for point in points]
        of = [value for value, size in values if target.of == "flops" or size > beyond]
        if of:
            found.append(Fraction(target, len(of), float(np.median(of)), max(of)))
    return found


def _fraction(point: Point, spec: GpuSpec, target: Target) -> tuple[float, float]:
    assert point.timing
    bandwidth, peak = peak_rates(spec, point.family)
    attained = (point.flops if target.of == "flops" else point.bytes) / point.timing.median_s
    return attained / (peak if target.of == "flops" else bandwidth), point.bytes


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def run_table(run: Run, spec: GpuSpec) -> list[str]:
    """A run in a page: what was not measured, fractions of the limit, error of the fit on held-back shapes."""
    from planner.calibration.fit import fit

    lost = [point for point in run.points if point.status is not Status.OK]
    lines = [f"run {run.id}, {run.mode.value}: {len(run.timed())} of {len(run.points)} points"]
    kinds = Counter(f"{point.kernel}: {point.status.value} {' '.join(point.flags)} {point.note}" for point in lost)
    lines += [f"  {count} x {kind}"[:WIDTH] for kind, count in kinds.most_common(MOST_LOST)]
    lines += [f"  and {len(kinds) - MOST_LOST} more kinds"] if len(kinds) > MOST_LOST else []
    rows = [("of the limit, beyond the cache", "points", "median", "best", "H200 should")]
    for f in fractions(run, spec):
        short = "" if f.best >= f.target.least else " missed"
        rows.append((f.target.name, str(f.points), f"{f.median:.2f}", f"{f.best:.2f}", f"{f.target.least:.2f}{short}"))
    lines += ["", *_table(rows)]
    rows = [("held back by family", "points", "median %", "p90 %")]
    for found in fit(run, spec).families:
        if found.held_out:
            errors = (f"{100 * found.held_out.median:.1f}", f"{100 * found.held_out.p90:.1f}")
            rows.append((f"{found.family} ({found.kernel})", str(found.points), *errors))
    return [*lines, "", *_table(rows)] if len(rows) > 1 else lines


def validate_table(tables: Sequence[Path]) -> list[str]:
    """Error of step times and of memory by model, format and phase."""
    import pandas as pd

    frames = [pd.read_csv(path) for path in tables]
    if not frames:
        return []
    rows = [("validate", "steps", "time median %", "p90 %", "bias %", "memory p90 %")]
    for key, group in pd.concat(frames).groupby(["model", "weight_format", "phase"]):
        time_error, memory = group["error_percent"], group["memory_error_percent"].abs()
        figures = (time_error.abs().median(), time_error.abs().quantile(0.9), time_error.median(), memory.quantile(0.9))
        rows.append((" ".join(map(str, key)), str(len(group)), *(f"{value:.1f}" for value in figures)))
    return _table(rows)


# The whole.


def _spec(run: Run, folder: Path) -> GpuSpec:
    """The run's GPU by the profile beside it, which may know what this machine's catalogue does not."""
    beside = folder / f"{run.gpu}.yaml"
    return gpu(str(beside)) if beside.is_file() else gpu(run.gpu)


def summary(done: Sequence[Done], work: Path) -> list[str]:
    """The page that one reads first; what matters most comes last, as the end of an output is what one is shown."""
    from planner.catalog.runs import read_run

    lines: list[str] = []
    for one in done:
        if one.code:
            said = (line[:WIDTH] for line in one.said)
            lines += [f"== {one.step.name}: {one.word}; the end of what it said", *said, ""]
    lines += [*validate_table(sorted(work.glob("*.csv"))), ""]
    for path in runs_in(work):
        run = read_run(path)
        if run.mode is Mode.FULL:
            lines += [*run_table(run, gpu(run.gpu)), ""]
    return lines + _table([("step", "ended", "seconds"), *((d.step.name, d.word, f"{d.took_s:.0f}") for d in done)])


def runs_in(work: Path) -> list[Path]:
    """Files of runs that the steps wrote."""
    return sorted(work.glob("*/*/*.json"))


def rescue(work: Path) -> None:
    """Runs of what interrupted ones had measured."""
    from planner.calibration.journal import Journal
    from planner.calibration.run import JOURNALS, so_far
    from planner.catalog.runs import write_run

    for path in work.glob(f"*/{JOURNALS}/*.jsonl"):
        journal = Journal.reopen(path)
        if journal is not None and journal.points and not any(one.stem == journal.header.id for one in runs_in(work)):
            write_run(so_far(journal), path.parents[1])


def gathered(work: Path, out: Path) -> None:
    """What is worth keeping, in few files with plain names."""
    for path in runs_in(work):
        shutil.copyfile(path, out / path.name)
        for folder in (profiles_dir(), user_profiles_dir()):
            if (profile := folder / f"{path.parent.name}.yaml").is_file():
                shutil.copyfile(profile, out / profile.name)
    tables = sorted(work.glob("*.csv"))
    if tables:
        rows = [path.read_text("utf-8").splitlines() for path in tables]
        lines = [rows[0][0], *(line for table in rows for line in table[1:])]
        (out / "validate.csv").write_text("\n".join(lines) + "\n", "utf-8")
    golden = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((work / "golden").glob("*.json"))}
    if golden:
        (out / "golden.json").write_text(json.dumps(golden, separators=(",", ":")), "utf-8")


def everything(out: Path, only: Sequence[str], within_s: float) -> int:
    """All steps and the summary. Raises PlannerError where there is nothing to run on."""
    from planner.calibration.environment import torch_build
    from planner.calibration.process import machine

    build = torch_build()
    bundled = build is None or build.cuda is None
    machine(bundled=bundled)
    if bundled:
        print("no torch with CUDA here: the bundled kernels are measured alone, nothing is validated", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    (work / "golden").mkdir()
    folders = {"GOLDEN_DIR": "golden", "PLANNER_CUBIN_DIR": "cubins", "PLANNER_RUNS_DIR": "runs"}
    environment = os.environ | {name: str(work / folder) for name, folder in folders.items()}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment |= {"COLUMNS": "160", "PYTHONUNBUFFERED": "1"}
    log = out / "log.txt"
    log.unlink(missing_ok=True)
    try:
        wanted = [step for step in steps(work, bundled) if not only or step.name.split()[0] in only]
        done = run_steps(wanted, environment, log, within_s)
        rescue(work)
        gathered(work, out)  # first: it does not depend on what the figures look like
        text = "\n".join(summary(done, work)) + "\n"
        (out / "summary.txt").write_text(text, "utf-8")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(text)
    return 0 if all(one.code == 0 for one in done) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 2 where there is no GPU to measure, 1 where a step failed or was skipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="steps, by the first word of their names, with commas")
    parser.add_argument("--within", type=float, default=720, help="seconds for all steps; what does not fit is skipped")
    parser.add_argument("--read", type=Path, help="a run's file: show its table and do nothing else")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    try:
        if asked.compile:
            return compile_cold()
        if asked.read:
            from planner.catalog.runs import read_run

            run = read_run(asked.read)
            print("\n".join(run_table(run, _spec(run, asked.read.parent))))
            return 0
        return everything(asked.out, [name for name in asked.only.split(",") if name], asked.within)
    except PlannerError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
