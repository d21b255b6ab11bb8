"""A calibration run: what the benchmark measured on one GPU, raw, with its environment. Schema version 1.

A run holds no derived figures and nothing that says whose machine it was: texts are limited to what a
driver, a library or this project prints, and a device is known by a salted hash.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from planner.specs.base import Spec

SCHEMA_VERSION = 1
MAX_POINTS = 20_000
MOST = 2**40  # of any count in a shape
LIBRARY = "torch."  # how names of torch's kernels begin, which engines call too

# A path, an address, a hardware or user identifier: none of them belongs into a run.
_PRIVATE = re.compile(
    r"GPU-[0-9a-f]{8}|MIG-[0-9a-f]{8}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}|\b\d{1,3}(?:\.\d{1,3}){3}\b(?!\.?\d)"
    r"|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}|[\w.+-]+@[\w-]+\.[a-z]{2,}|~/|\\\\|(?:^|[\s=:'\"])/\w|[A-Z]:\\",
    re.IGNORECASE,
)


def _impersonal(text: str) -> str:
    if _PRIVATE.search(text):
        raise ValueError("holds a path, an address or an identifier, which a run must not carry")
    return text


def redacted(text: str) -> str:
    """The text with an asterisk for each thing that a run must not carry."""
    while _PRIVATE.search(text):
        text = _PRIVATE.sub("*", text)
    return text


Text = Annotated[str, Field(max_length=200, pattern=r"^[ -~]*$"), AfterValidator(_impersonal)]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._:-]{0,79}$")]
Version = Annotated[str, Field(max_length=40, pattern=r"^[0-9A-Za-z.+_-]*$")]
Number = Annotated[int, Field(ge=1, le=MOST)]
Amount = Annotated[int, Field(ge=0, le=MOST)]
Seconds = Annotated[float, Field(ge=1e-12, le=1e4)]
Reading = Annotated[float, Field(ge=0, le=1e6)] | None  # None: the driver does not say


class GemmShape(Spec):
    """Y[m, n] = X[m, k] W[n, k]^T."""

    m: Number
    n: Number
    k: Number


class AttentionShape(Spec):
    """Every sequence has `cached` tokens in the cache and `new` ones that attend to them and to themselves."""

    sequences: Number
    new: Number
    cached: Amount
    query_heads: Number
    kv_heads: Number
    head_dim: Number


class ExpertShape(Spec):
    """`tokens` tokens through the gated experts of one layer, each through `active` of `experts`."""

    tokens: Number
    hidden: Number
    inner: Number
    experts: Number
    active: Number
    routing: Id = "balanced"


class StreamShape(Spec):
    """A pass over memory; 0 bytes is an empty kernel."""

    size_bytes: Amount


class CollectiveShape(Spec):
    """A message of `size_bytes` among `ranks` GPUs; what counts as its size is in `planner.collectives`."""

    ranks: Number
    size_bytes: Number


Shape = GemmShape | AttentionShape | ExpertShape | StreamShape | CollectiveShape  # told apart by their fields


class Status(StrEnum):
    """What became of a point."""

    OK = "ok"
    REJECTED = "rejected"  # faster than the hardware can be, or never calm, in every attempt
    DID_NOT_FIT = "did_not_fit"
    FAILED = "failed"  # the kernel does not run here


class Flag(StrEnum):
    """Why a point deserves less trust."""

    THROTTLED = "throttled"
    BUSY = "busy"  # another process used the GPU
    SPREAD = "spread"  # repetitions differ by more than they should
    ABOVE_LIMIT = "above_limit"
    CLOCK_DROP = "clock_drop"
    REDUCED = "reduced"  # shrunk until it fit
    HOT = "hot"  # less memory was touched than the rotation asks for


class Timing(Spec):
    """Seconds of one call: median and tenth and ninetieth percentile over `reps` replays of `calls` calls each."""

    median_s: Seconds
    p10_s: Seconds
    p90_s: Seconds
    reps: Number
    calls: Number = 1
    copies: Number = 1  # buffers that the calls rotate through


class Health(Spec):
    """What the driver says of the GPU at one moment."""

    sm_mhz: Reading = None
    memory_mhz: Reading = None
    power_w: Reading = None
    temperature_c: Reading = None
    throttle: tuple[Id, ...] = ()
    others_bytes: Annotated[int, Field(ge=0, le=MOST)] | None = None  # memory of other processes


class Point(Spec):
    """One measurement: which kernel, on what, how long, and what it had to move and to compute."""

    family: Id
    kernel: Id
    dtype: Id
    shape: Shape
    bytes: Annotated[float, Field(ge=0, le=1e15)]
    flops: Annotated[float, Field(ge=0, le=1e18)]
    status: Status = Status.OK
    timing: Timing | None = None
    health: Health | None = None  # after the last replay
    flags: tuple[Flag, ...] = ()
    attempts: Number = 1
    order: Amount = 0  # position in the run: points are measured in random order
    anchor: bool = False  # the repeated shape that shows drift
    note: Text = ""

    @model_validator(mode="after")
    def _timed(self) -> Point:
        if (self.status is Status.OK) and self.timing is None:
            raise ValueError("a point that is ok has a timing")
        return self


class Environment(Spec):
    """The machine as far as it bears on speed. None: not known."""

    gpu_name: Text
    device_token: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]  # salted hash: tells two cards of one machine apart
    compute_capability: Annotated[float, Field(ge=1, le=100)] | None = None
    sm_count: Number | None = None
    l2_bytes: Number | None = None
    total_bytes: Number | None = None
    driver: Version = ""
    cuda: Version = ""  # of the build of torch
    torch: Version = ""
    nccl: Version = ""
    power_limit_w: Reading = None
    power_limit_default_w: Reading = None
    max_sm_mhz: Reading = None
    max_memory_mhz: Reading = None
    ecc: bool | None = None
    mig: Id | None = None  # the slice, when this is one
    display: bool | None = None
    before: Health = Health()
    after: Health = Health()


class Mode(StrEnum):
    """How much of the suite ran."""

    FULL = "full"
    QUICK = "quick"
    CONVERTED = "converted"  # from published measurements; see `source`


class Run(Spec):
    """One calibration run, as its file holds it."""

    schema_version: Literal[1] = 1
    id: Id
    gpu: Id  # of the profile
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    planner_version: Version
    mode: Mode = Mode.FULL
    source: Annotated[str, Field(max_length=300)] = "planner calibrate"
    environment: Environment
    points: Annotated[tuple[Point, ...], Field(max_length=MAX_POINTS)]
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = "0" * 64

    def timed(self) -> tuple[Point, ...]:
        """Points with a trustworthy time."""
        return tuple(point for point in self.points if point.status is Status.OK)

    def body(self) -> dict[str, Any]:
        """What the checksum covers."""
        return self.model_dump(mode="json", exclude={"checksum"}, exclude_defaults=True) | {
            "schema_version": self.schema_version
        }
