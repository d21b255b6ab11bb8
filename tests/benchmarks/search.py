"""How many estimates a search prices per second: `python -m tests.benchmarks.search [every] [processes]`.

Prints figures, asserts none. The space: every bundled model that writes text (or every n-th), all weight formats,
all GPUs, tp 1 to 8, three KV formats, 12 concurrencies; and searches as a page asks for them. Processor time is that
of the workers, so that a busy machine changes less.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from planner.catalog import formats, gpus, models
from planner.search import Space, Wish, recommend
from planner.search.recommend import judged, tasks
from planner.search.records import Sifted, Task
from planner.search.sift import sift
from planner.specs.scenario import Scenario

LOAD = Scenario(input_tokens=2000, output_tokens=500)
CONCURRENCIES = tuple(2**n for n in range(12))
PAGE_GPUS = ("rtx4090", "h100-sxm")


def full(every: int) -> Space:
    """The whole catalogue, or every n-th model of it."""
    names = [entry.id for entry in models.model_index() if entry.task == "generate"]
    return Space(
        models=tuple(names[::every]),
        gpus=tuple(gpus.gpu_ids()),
        formats=formats.weight_format_ids(),
        kv_formats=("bf16", "fp8", "q8_0"),
        engines=("vllm", "llama.cpp"),
        tps=(1, 2, 4, 8),
        replicas=(1,),
        concurrencies=CONCURRENCIES,
    )


def timed(task: Task) -> tuple[Sifted, float]:
    """A task and the processor seconds that it took."""
    begun = time.process_time()
    return sift(task), time.process_time() - begun


def peak_mib() -> float:
    """Most memory that this process or one of its children held."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(one).ru_maxrss for one in who) / 1024


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def catalogue(every: int, processes: int) -> None:
    """The whole search, over processes."""
    todo = tasks(LOAD, full(every), Wish())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        list(pool.map(timed, todo[:processes]))  # starts the processes and reads the catalogue
        begun = time.perf_counter()
        parts = list(pool.map(timed, todo))
        passed = time.perf_counter() - begun
    found = judged(LOAD, Wish(), [part for part, _ in parts])
    busy = sum(seconds for _, seconds in parts)
    say(f"{len(todo)} models: {found.combinations:,} combinations, {found.priced:,} priced in {passed:.1f} s")
    rate, masked = found.priced / passed, found.combinations / passed
    say(f"  {rate:,.0f} priced/s on {processes} processes, {masked:,.0f} combinations/s with those masked")
    say(f"  {found.priced / busy:,.0f} priced per processor second; peak memory {peak_mib():,.0f} MiB in all")


def pages() -> None:
    """A page's searches: models from 7 billion parameters on one kind of GPU, twice, and with as many as it takes."""
    named = tuple(entry.id for entry in models.model_index() if entry.task == "generate" and entry.parameters >= 7e9)
    for gpu in PAGE_GPUS:
        for counts in ((2,), ()):
            for turn in ("first", "again"):
                begun = time.perf_counter()
                found = recommend(
                    LOAD.model_copy(update={"concurrency": 8}), Space(models=named, gpus=(gpu,), counts=counts), Wish()
                )
                passed = time.perf_counter() - begun
                say(f"page, {gpu}, counts {counts or 'any'}, {turn}: {passed:.2f} s, {found.combinations:,} in all")


def main(every: int = 1, processes: int = 2) -> None:
    """Print the table."""
    pages()
    catalogue(every, processes)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
