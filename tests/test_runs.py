import json
import re
import socket
from pathlib import Path

import pytest

from planner.catalog import runs
from planner.catalog.paths import runs_dir
from planner.errors import BadFile, UnknownName
from planner.specs.run import Environment, GemmShape, Health, Mode, Point, Run, StreamShape, Timing

PRIVATE = re.compile(
    r"GPU-|MIG-[0-9a-f]|[0-9a-f]{8}-[0-9a-f]{4}-|/home|/root|/Users|[A-Z]:\\|@[a-z]|(\d{1,3}\.){3}\d{1,3}[:/]|([0-9a-f]{2}:){5}"
)


def timing(seconds: float) -> Timing:
    return Timing(median_s=seconds, p10_s=0.99 * seconds, p90_s=1.01 * seconds, reps=20, calls=8, copies=4)


def point(m: int = 1, seconds: float = 1e-5, order: int = 0) -> Point:
    shape = GemmShape(m=m, n=4096, k=4096)
    needs = {"bytes": 2.0 * (4096**2 + m * 8192), "flops": 2.0 * m * 4096**2}
    return Point(
        family="gemm-16", kernel="torch.mm", dtype="bf16", shape=shape, timing=timing(seconds), order=order, **needs
    )


def run(name: str = "20261120t100000z-abc123", gpu: str = "h200-sxm", **changes: object) -> Run:
    fields: dict[str, object] = {
        "id": name,
        "gpu": gpu,
        "created": "2026-11-20T10:00:00Z",
        "planner_version": "0.1",
        "environment": Environment(
            gpu_name="NVIDIA H200", device_token="0123456789abcdef", driver="580.95.05", before=Health(sm_mhz=1980)
        ),
        "points": (point(1), point(16, 2e-5, 1)),
    }
    return runs.sealed(Run(**(fields | changes)))


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = runs.write_run(run(), tmp_path)
    assert path == tmp_path / "h200-sxm" / "20261120t100000z-abc123.json"
    assert runs.read_run(path) == run()


def test_runs_are_added_and_never_changed(tmp_path: Path) -> None:
    runs.write_run(run(), tmp_path)
    with pytest.raises(BadFile, match="never changed"):
        runs.write_run(run(), tmp_path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:-200], "not JSON"),
        (lambda text: text.replace('"reps": 20', '"reps": 21', 1), "checksum"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "schema version 2"),
        (lambda text: text.replace("4096", "-4096", 1), "greater than or equal"),
        (lambda text: text.replace('"gpu":', '"GPU":'), "gpu"),
        (lambda text: "[]", "not a calibration run"),
        (lambda text: "", "not JSON"),
    ],
)
def test_a_damaged_run_is_named_and_skipped(damage, says: str, tmp_path: Path) -> None:
    good, bad = runs.write_run(run(), tmp_path), tmp_path / "h200-sxm" / "damaged.json"
    bad.write_text(damage(good.read_text("utf-8")), "utf-8")
    found = runs.stored_runs(tmp_path)
    assert [stored.path for stored in found.runs] == [good]
    assert [item.path for item in found.damaged] == [bad] and says in found.damaged[0].reason
    assert runs.newest("h200-sxm", tmp_path) == run()


def test_the_newest_full_run_of_a_gpu_counts(tmp_path: Path) -> None:
    runs.write_run(run("a", created="2026-11-01T00:00:00Z"), tmp_path)
    runs.write_run(run("b", created="2026-11-02T00:00:00Z"), tmp_path)
    runs.write_run(run("c", created="2026-11-03T00:00:00Z", mode=Mode.QUICK), tmp_path)
    runs.write_run(run("d", gpu="l4", created="2026-11-04T00:00:00Z"), tmp_path)
    newest = runs.newest("h200-sxm", tmp_path)
    assert newest is not None and newest.id == "b"
    assert runs.newest("h100-sxm", tmp_path) is None


def test_a_run_is_found_by_the_beginning_of_its_name(tmp_path: Path) -> None:
    runs.write_run(run("20261101t000000z-aaaaaa"), tmp_path)
    runs.write_run(run("20261102t000000z-bbbbbb"), tmp_path)
    assert runs.run("20261102", tmp_path).run.id.endswith("bbbbbb")
    with pytest.raises(UnknownName, match="2 runs begin so"):
        runs.run("202611", tmp_path)
    with pytest.raises(UnknownName, match="planner runs"):
        runs.run("x", tmp_path)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = runs.write_run(run(), tmp_path / "elsewhere")
    (tmp_path / "runs" / "gpu").mkdir(parents=True)
    (tmp_path / "runs" / "gpu" / "link.json").symlink_to(outside)
    assert runs.stored_runs(tmp_path / "runs").runs == ()


def test_an_uploaded_run_is_bounded() -> None:
    with pytest.raises(BadFile, match="bytes"):
        runs.run_from_bytes(b" " * (runs.MAX_RUN_BYTES + 1))


@pytest.mark.parametrize(
    "private",
    [
        "GPU-0a1b2c3d-1111-2222-3333-444455556666",
        "/home/someone/run",
        "someone@example.org",
        "10.1.2.3",
        "00:1b:44:11:3a:b7",
        "C:\\Users\\someone",
        "naïve",
    ],
)
def test_a_run_carries_nothing_of_whose_machine_it_was(private: str) -> None:
    with pytest.raises(ValueError, match="gpu_name"):
        Environment(gpu_name=f"NVIDIA {private}", device_token="0" * 16)
    with pytest.raises(ValueError, match="note"):
        Point.model_validate(point().model_dump() | {"note": private})


def test_every_shipped_run_is_whole_and_impersonal() -> None:
    found = runs.stored_runs(runs_dir())
    assert found.damaged == ()
    for stored in found.runs:
        text = stored.path.read_text("utf-8")
        assert stored.path.parent.name == stored.run.gpu.replace(":", "-") and stored.path.stem == stored.run.id
        assert not PRIVATE.search(json.dumps(json.loads(text)["environment"])) and socket.gethostname() not in text


def test_an_empty_kernel_moves_nothing() -> None:
    empty = Point(
        family="launch",
        kernel="empty",
        dtype="none",
        shape=StreamShape(size_bytes=0),
        bytes=0,
        flops=0,
        timing=timing(2e-6),
    )
    assert run(points=(empty,)).timed() == (empty,)
