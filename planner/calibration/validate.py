"""Predicted against measured: whole steps of a transformer with random weights, without an engine around it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from planner.calibration.transformer import Setting, Transformer
from planner.catalog.calibrated import Asked, Source, calibrated, residuals
from planner.catalog.formats import kv_format, weight_format
from planner.catalog.kernel_families import kernel_families
from planner.catalog.links import Topology
from planner.catalog.rates import rates_for, stack
from planner.collectives import Parallel
from planner.formats import HALF_BYTES, kernel_for, tensor_bytes
from planner.ops import Batch, Slot, Widths, batch_ops, prepare
from planner.ops.products import groups
from planner.roofline import step_seconds
from planner.specs.formats import Level
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec

RUNNER = "none"  # the engine id of a runner without overheads
BATCHES, CONTEXTS = (1, 8, 32, 64), (512, 4096, 16384)
PROMPTS = ((1, 512), (1, 2048), (4, 2048), (1, 8192))
FEWEST_REPS, REPS, TOTAL_S = 3, 10, 0.3  # replays: about TOTAL_S of them
CACHE_SHARE = 0.5  # of the free memory that a step's cache may take


class Shape(NamedTuple):
    """One step: decode of `batch` sequences with `tokens` cached, or prefill of `batch` prompts of `tokens`."""

    phase: str
    batch: int
    tokens: int


class ComparedStep(NamedTuple):
    """A step as predicted and as measured."""

    model: str
    weight_format: str
    phase: str
    batch: int
    tokens: int
    predicted_s: float
    measured_s: float
    predicted_bytes: float  # weights and, for decode, the cache
    measured_bytes: float

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1


class Predictor(NamedTuple):
    """What the planner says of a model on a GPU with the engine `none`."""

    model: ModelSpec
    format_id: str
    gpu: GpuSpec
    source: Source | None

    def _batch(self, shape: Shape) -> Batch:
        if shape.phase == "decode":
            return Batch(decode_seqs=np.array([float(shape.batch)]), decode_context=np.array([float(shape.tokens)]))
        return Batch(
            prefill_tokens=np.array([float(shape.batch * shape.tokens)]),
            prefill_context=np.array([0.0]),
            prefill_seqs=np.array([float(shape.batch)]),
        )

    def step_s(self, shape: Shape) -> float:
        """Seconds of one step."""
        fmt, kv = weight_format(self.format_id), kv_format("bf16")[0]
        level = Level.WEIGHT_ONLY if fmt.id.startswith("w4") else Level.NATIVE
        families, topology = kernel_families(self.model, fmt, kernel_for(fmt, level), kv), Topology()
        used = frozenset(group.slot for group in groups(self.model)) | {Slot.DECODE}
        asked = Asked(self.gpu, RUNNER, families, topology, used)
        plain = rates_for(self.gpu, RUNNER, families, topology)
        rate_set = plain if self.source is None else calibrated(self.source, asked)
        widths = Widths(tensor_bytes(self.model, fmt, True)[:, None])
        ops = batch_ops(prepare(self.model, widths, Parallel()), self._batch(shape))
        rates = stack([rate_set])
        rates = rates._replace(quantize_bytes=np.zeros_like(rates.quantize_bytes))  # the runner's inputs come quantized
        return float(step_seconds(ops, rates, residuals([rate_set]))[0])

    def cache_bytes(self, shape: Shape) -> float:
        """Keys and values of a decode step; a prompt's own are not kept by the runner."""
        return shape.batch * shape.tokens * token_bytes(self.model) if shape.phase == "decode" else 0.0

    def weight_bytes(self) -> float:
        """Resident weights."""
        return float(np.sum(tensor_bytes(self.model, weight_format(self.format_id), True)))


def token_bytes(model: ModelSpec) -> float:
    """Cache of one token in 16 bit."""
    mixer: Any = model.mixers[0]
    return float(2 * model.n_layers * mixer.n_kv_heads * mixer.head_dim * HALF_BYTES)


def shapes(model: ModelSpec, free_bytes: float) -> Iterator[Shape]:
    """Steps whose cache fits."""
    for batch in BATCHES:
        for context in CONTEXTS:
            if batch * context * token_bytes(model) <= CACHE_SHARE * free_bytes:
                yield Shape("decode", batch, context)
    yield from (Shape("prefill", batch, tokens) for batch, tokens in PROMPTS)


def graph_s(torch: Any) -> Callable[[Callable[[], Any]], float]:
    """Median seconds of a step captured in a CUDA graph."""
    from planner.calibration.graphs import Graph

    def seconds(step: Callable[[], Any]) -> float:
        step()
        torch.cuda.synchronize()
        graph = Graph(torch, lambda _: step(), 1)
        lasted = min(graph.replay_s(2))
        return float(np.median(graph.replay_s(int(np.clip(TOTAL_S / lasted, FEWEST_REPS, REPS)))))

    return seconds


class Instruments(NamedTuple):
    """How a step is timed, and how its memory is read; None: by adding up what the runner holds."""

    seconds: Callable[[Callable[[], Any]], float]
    allocated: Callable[[], float] | None = None


def compare(
    predictor: Predictor, setting: Setting, wanted: Sequence[Shape], instruments: Instruments
) -> list[ComparedStep]:
    """Every step that fits, predicted and measured, in time and in memory."""
    before = instruments.allocated() if instruments.allocated else 0.0
    runner = Transformer(predictor.model, setting)
    weights, rows = runner.held_bytes, []
    for shape in wanted:
        runner.held_bytes, runner.working_bytes = weights, 0
        with contextlib.suppress(setting.torch.OutOfMemoryError):  # the other steps are worth having
            rows.append(_compared(predictor, runner, shape, instruments, before))
    return rows


def _compared(
    predictor: Predictor, runner: Transformer, shape: Shape, instruments: Instruments, before_bytes: float
) -> ComparedStep:
    """One step. Its buffers go when it returns; what is measured are weights and cache, not inputs and results."""
    step = (runner.decode if shape.phase == "decode" else runner.prefill)(shape.batch, shape.tokens)
    held = float(runner.held_bytes)
    if instruments.allocated:
        held = instruments.allocated() - before_bytes - runner.working_bytes
    times = predictor.step_s(shape), instruments.seconds(step)
    expected = predictor.weight_bytes() + predictor.cache_bytes(shape)
    return ComparedStep(predictor.model.id, predictor.format_id, *shape, *times, expected, held)
