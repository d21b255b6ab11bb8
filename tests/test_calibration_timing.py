import time
from types import SimpleNamespace

import pytest

from planner.calibration.cases import Case, Named, attention, product, stream
from planner.calibration.graphs import MOST_QUEUED, HostTimed
from planner.calibration.timing import ATTEMPTS, FULL, QUICK, Unsupported, _timing, copies_for, measure
from planner.specs.run import AttentionShape, Flag, GemmShape, Health, Point, Status
from tests.fake_gpu import MIB, FakeDevice

MM = Named("gemm-16", "torch.mm", "bf16")
SMALL = product(MM, GemmShape(m=1, n=2048, k=2048))
LARGE = product(MM, GemmShape(m=16, n=16384, k=16384))


def measured(device: FakeDevice, case=SMALL) -> Point:
    return measure(device, case, QUICK, pause=lambda seconds: None)


def test_a_rotation_touches_more_than_twice_the_cache() -> None:
    assert copies_for(SMALL, 50 * MIB) * SMALL.cold_bytes > 2 * 50 * MIB
    assert copies_for(stream(Named("launch", "empty", "none"), 0), 50 * MIB) == 1


def test_a_point_is_a_median_with_its_spread() -> None:
    point = measured(FakeDevice())
    timing = point.timing
    assert point.status is Status.OK and timing is not None and point.flags == ()
    assert timing.p10_s <= timing.median_s <= timing.p90_s <= 1.01 * timing.median_s
    assert timing.reps >= QUICK.fewest_replays and timing.calls % timing.copies == 0


def test_what_is_faster_than_the_hardware_is_measured_again_and_rejected() -> None:
    device = FakeDevice(faster_than_light=3.0)
    point = measured(device, LARGE)
    assert point.status is Status.REJECTED and Flag.ABOVE_LIMIT in point.flags
    assert point.attempts == ATTEMPTS and [copies for _, copies in device.loads] == sorted(c for _, c in device.loads)


def test_a_cache_that_is_larger_than_stated_is_found_out() -> None:
    device = FakeDevice(l2_bytes=4 * MIB, true_l2_bytes=64 * MIB, cache_gain=20.0, t0_s=1e-8)
    point = measured(device)
    assert point.status is Status.OK and point.timing is not None
    assert point.timing.copies * SMALL.cold_bytes > 64 * MIB and point.attempts > 1


def test_heat_is_waited_out() -> None:
    waits: list[float] = []
    point = measure(FakeDevice(hot_until=2), SMALL, QUICK, pause=waits.append)
    assert point.status is Status.OK and point.attempts == 2 and len(waits) == 1


def test_lasting_heat_is_recorded_and_the_point_rejected() -> None:
    point = measured(FakeDevice(hot_until=10**9))
    assert point.status is Status.REJECTED and Flag.THROTTLED in point.flags


def test_too_little_memory_costs_copies_first_and_then_size() -> None:
    shape = AttentionShape(sequences=64, new=1, cached=8192, query_heads=32, kv_heads=8, head_dim=128)
    case = attention(Named("attention-decode-16", "decode-bf16", "bf16"), shape)
    fewer = measured(FakeDevice(memory_bytes=int(1.5 * case.bytes), l2_bytes=2**31), case)
    smaller = measured(FakeDevice(memory_bytes=int(0.6 * case.bytes)), case)
    assert fewer.shape == shape and fewer.timing is not None and fewer.timing.copies == 1
    assert Flag.REDUCED in smaller.flags and smaller.shape.sequences == 32 and smaller.bytes < 0.51 * case.bytes


def test_what_fits_in_no_size_is_recorded() -> None:
    assert measured(FakeDevice(memory_bytes=1000)).status is Status.DID_NOT_FIT


def test_a_kernel_that_does_not_run_is_recorded_without_paths() -> None:
    point = measured(FakeDevice(broken=frozenset({"torch.mm"})))
    assert point.status is Status.FAILED and "no image" in point.note and "/" not in point.note


@pytest.mark.parametrize("kernel", ["torch.mm", "stream-read"])
def test_every_point_says_what_it_moved_and_computed(kernel: str) -> None:
    case = SMALL if kernel == "torch.mm" else stream(Named("read", kernel, "none"), 2**26)
    point = measured(FakeDevice(), case)
    assert (point.bytes, point.flops, point.shape) == (case.bytes, case.flops, case.shape)


class Queued:
    """A load whose graph takes a while to start: one call alone seems slow."""

    def __init__(self, one_s: float, start_s: float) -> None:
        self.one_s, self.start_s = one_s, start_s

    def seconds(self, calls: int, replays: int) -> list[float]:
        return [self.one_s + self.start_s / calls] * replays


def test_a_graph_is_long_enough_although_its_own_start_is_seen_first() -> None:
    timing = _timing(Queued(1e-6, 12e-6), 1, FULL)
    assert timing.calls * 1e-6 > 0.8 * FULL.graph_s
    assert timing.median_s < 1.1e-6


def test_clocks_that_a_power_limit_lowers_are_recorded_and_no_reason_to_wait() -> None:
    device = FakeDevice()
    clocks = iter([1980.0, 1500.0] * ATTEMPTS)
    device.health = lambda: Health(sm_mhz=next(clocks), others_bytes=0)  # type: ignore[method-assign]
    point = measured(device)
    assert point.status is Status.OK and point.attempts == 1 and Flag.CLOCK_DROP in point.flags


@pytest.mark.parametrize(
    "said", ["cuDNN 9.10.2.21.7.8.9.1: no plan", "GPU-0a1b2c3d-1111 at 00:1b:44:11:3a:b7", "~/x a=/b"]
)
def test_what_a_library_says_never_keeps_a_point_from_being_written(said: str) -> None:
    def refuse(case: Case) -> None:
        raise Unsupported(said)

    point = measured(FakeDevice(on_load=refuse))
    assert point.status is Status.FAILED and point.note


def test_what_the_host_starts_is_timed_without_what_the_gpu_then_does() -> None:
    waits, started = [], []
    torch = SimpleNamespace(cuda=SimpleNamespace(synchronize=lambda: waits.append(time.sleep(0.05))))
    seconds = HostTimed(torch, started.append).seconds(10 * MOST_QUEUED, 3)
    assert len(started) == 3 * MOST_QUEUED and len(waits) == 4
    assert len(seconds) == 3 and max(seconds) < 0.05 / 10
