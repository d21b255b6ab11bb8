"""Collectives among the GPUs of this machine: NCCL where there are several, gloo where a test has none."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.timing import SPREAD, plain
from planner.errors import PlannerError
from planner.specs.run import CollectiveShape, Flag, Point, Status, Timing
from planner.units import MS_PER_S

SIZES = tuple(2**e for e in range(10, 30, 2)) + (2**29,)
SIZES_QUICK = tuple(2**e for e in range(10, 30, 4))
FAMILIES = ("all_reduce", "all_gather", "all_to_all")
WARM_UPS, REPS = 5, 20
WAIT_S = 120.0
HALF_BYTES = 2


class Group(NamedTuple):
    """Who talks: how many ranks, through which backend, on which devices."""

    ranks: int
    backend: str = "nccl"
    device: str = "cuda"
    uuids: tuple[str, ...] = ()

    @property
    def kernel(self) -> str:
        return self.backend


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _call(torch: Any, family: str, size_bytes: int, group: Group, device: Any) -> Callable[[], Any]:
    """One collective on a message of `size_bytes`: the reduced one, the gathered whole, what one rank spreads."""
    spread = torch.distributed
    count = max(size_bytes // HALF_BYTES // group.ranks * group.ranks, group.ranks)
    dtype = torch.bfloat16 if group.device == "cuda" else torch.float32
    message = torch.ones(count, dtype=dtype, device=device)
    if family == "all_reduce":
        return lambda: spread.all_reduce(message)
    if family == "all_gather":
        part = torch.ones(count // group.ranks, dtype=dtype, device=device)
        return lambda: spread.all_gather_into_tensor(message, part)
    other = torch.empty_like(message)
    return lambda: spread.all_to_all_single(other, message)


def _timed(torch: Any, call: Callable[[], Any], on_gpu: bool) -> list[float]:
    """Seconds of every repetition on this rank, after warm-ups."""
    for _ in range(WARM_UPS):
        call()
    seconds = []
    for _ in range(REPS):
        torch.distributed.barrier()
        if on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            seconds.append(start.elapsed_time(end) / MS_PER_S)
        else:
            begun = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begun)
    return seconds


def _slowest(torch: Any, family: str, size: int, group: Group, device: Any) -> list[float] | str:
    """Seconds of every repetition on the slowest rank, or why the backend does not know the collective."""
    try:
        seconds = torch.tensor(_timed(torch, _call(torch, family, size, group, device), group.device == "cuda"))
    except (RuntimeError, AttributeError) as error:
        return str(error).splitlines()[0]
    seconds = seconds.to(device)
    torch.distributed.all_reduce(seconds, op=torch.distributed.ReduceOp.MAX)
    return list(seconds.tolist())


def _rank(rank: int, group: Group, port: int, sizes: Sequence[int], answers: Any) -> None:
    """One process of the group; rank 0 reports."""
    if group.uuids:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(group.uuids)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch

    device = torch.device("cuda", rank) if group.device == "cuda" else torch.device("cpu")
    if group.device == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(group.backend, rank=rank, world_size=group.ranks)
    try:
        for family, size in product(FAMILIES, sizes):
            found = _slowest(torch, family, size, group, device)
            if rank == 0:
                answers.put((family, size, found))
        if rank == 0:
            answers.put(None)
    finally:
        torch.distributed.destroy_process_group()


def point(family: str, shape: CollectiveShape, found: list[float] | str, kernel: str) -> Point:
    """A measured collective, or one that the backend does not know."""
    facts: dict[str, Any] = {"family": family, "kernel": kernel, "dtype": "bf16", "shape": shape}
    facts |= {"bytes": float(shape.size_bytes), "flops": 0.0}
    if isinstance(found, str):
        return Point(**facts, status=Status.FAILED, note=plain(found))
    low, middle, high = (float(value) for value in np.quantile(found, [0.1, 0.5, 0.9]))
    flags = (Flag.SPREAD,) if high > SPREAD * middle else ()
    return Point(**facts, timing=Timing(median_s=middle, p10_s=low, p90_s=high, reps=len(found)), flags=flags)


def measure_group(group: Group, sizes: Sequence[int] = SIZES) -> tuple[Point, ...]:
    """Every collective at every size. Raises PlannerError when the ranks do not answer."""
    context = multiprocessing.get_context("spawn")
    answers, port = context.SimpleQueue(), _free_port()
    ranks = [
        context.Process(target=_rank, args=(rank, group, port, sizes, answers), daemon=True)
        for rank in range(group.ranks)
    ]
    for rank in ranks:
        rank.start()
    points: list[Point] = []
    try:
        deadline = time.monotonic() + WAIT_S
        while True:
            if answers.empty():
                if time.monotonic() > deadline or any(rank.exitcode for rank in ranks):
                    raise PlannerError(f"collectives among {group.ranks} GPUs did not finish")
                time.sleep(0.01)
                continue
            answer = answers.get()
            if answer is None:
                return tuple(points)
            family, size, found = answer
            points.append(point(family, CollectiveShape(ranks=group.ranks, size_bytes=size), found, group.kernel))
    finally:
        for rank in ranks:
            rank.join(timeout=10)
            if rank.is_alive():
                rank.terminate()


def sizes_of_groups(count: int) -> list[int]:
    """Group sizes worth measuring: 2, 4, 8, ... up to all."""
    return [n for n in (2, 4, 8, 16) if n <= count]
