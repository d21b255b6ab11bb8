"""What the planner says of a fine-tuning run, as columns: memory in GiB on one GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from planner import __version__
from planner.specs.finetune import FinetuneScenario

if TYPE_CHECKING:
    import pandas as pd

FinetuneRow = dict[str, Any]  # one run: its columns as resolved, then the answer's; None: no such figure


def column(says: str) -> Any:
    """A column of the answer and its line in the nomenclature."""
    return field(default=None, metadata={"says": says})


@dataclass(frozen=True)
class FinetuneAnswer:
    """The answer to one run; None is "no such figure"."""

    scenario: FinetuneScenario  # as resolved: every default filled in

    fits: bool | None = column("the peak stays below what the GPU has; blank without a GPU")
    fit_confidence: str | None = column("yes | tight | no: whether the interval of the peak crosses the line")
    reason: str | None = column("the answer as a sentence")
    error: str | None = column("why this run could not be estimated; blank otherwise")

    peak_gib: float | None = column("highest use of a GPU, as nvidia-smi shows it")
    peak_gib_low: float | None = column("lower end of the 80 % interval of peak_gib")
    peak_gib_high: float | None = column("upper end of the 80 % interval of peak_gib")
    peak_phase: str | None = column("loss | backward | gradients | optimizer step: the moment of the peak")
    peak_allocated_gib: float | None = column("torch.cuda.max_memory_allocated")
    peak_reserved_gib: float | None = column("torch.cuda.max_memory_reserved")
    loaded_gib: float | None = column("reserved by torch once model and adapters are loaded, before training")
    available_gib: float | None = column("device memory that is not held by others")

    weights_gib: float | None = column("frozen base, or the trained weights")
    adapters_gib: float | None = column("trained parameters beside a frozen base")
    gradients_gib: float | None = column("gradients at the end of the backward pass")
    optimizer_gib: float | None = column("optimizer states and master weights")
    buffers_gib: float | None = column("buckets and gathered parameters of DDP, ZeRO or FSDP, collectives")
    activations_gib: float | None = column("kept over the whole forward pass")
    layer_gib: float | None = column("one layer at work in the backward pass")
    loss_gib: float | None = column("logits and the loss at their peak")
    step_gib: float | None = column("temporaries of the optimizer's step")
    allocator_gib: float | None = column("held by torch's allocator beyond its tensors at the peak")
    context_gib: float | None = column("CUDA context and libraries")
    model_states_gib: float | None = column("weights, gradients and optimizer together")

    parameters: int | None = column("parameters of the model")
    trained_parameters: int | None = column("parameters that the run updates")
    max_batch_size: int | None = column("largest micro-batch of this sequence length that fits")
    max_seq_len: int | None = column("longest sequence of this micro-batch that fits")
    planner_version: str = field(default=__version__, metadata={"says": "version of the planner"})

    def row(self) -> FinetuneRow:
        """The scenario's columns, then the answer's."""
        return self.scenario.__dict__ | {name: getattr(self, name) for name in answer_columns()}


@dataclass(frozen=True)
class FinetuneEstimate:
    """Answers in the scenarios' order."""

    answers: tuple[FinetuneAnswer, ...]

    def rows(self) -> list[FinetuneRow]:
        """One dict per scenario; None where there is no figure."""
        return [answer.row() for answer in self.answers]

    def to_frame(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame (pandas is imported here, not with the planner)."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=[*FinetuneScenario.model_fields, *answer_columns()])


def documented() -> Iterator[tuple[str, str]]:
    """Name and meaning of every column of the answer, in order."""
    yield from ((item.name, item.metadata["says"]) for item in fields(FinetuneAnswer) if "says" in item.metadata)


@lru_cache(maxsize=1)
def answer_columns() -> tuple[str, ...]:
    """Names of the answer's columns in the order of a CSV."""
    return tuple(name for name, _ in documented())
