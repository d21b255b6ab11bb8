"""The Calibration page: what a GPU's speed rests on, and runs that a visitor brings."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import calibrating
from planner.calibration.fit import fit
from planner.catalog import runs
from planner.catalog.gpus import gpu
from planner.errors import BadFile
from planner.estimate import evidence
from planner.specs.run import Run
from tests.pages import PAGES, opened, shown
from tests.test_fit import fitted_run, products

PAGE = "views/calibration.py"
VIEWS = ("Roofline", "Bandwidth", "Formats against batch", "Error of the fit", "Environment", "Two runs")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(runs.RUNS_DIR, str(tmp_path))
    monkeypatch.setattr(runs, "user_dir", lambda: tmp_path)
    monkeypatch.setattr("planner.catalog.paths.runs_dir", lambda: tmp_path)
    return tmp_path


def page() -> AppTest:
    return opened(PAGE, model="Qwen/Qwen3-8B", gpu="h200-sxm", weight_format="bf16")


def brought(at: AppTest, data: bytes) -> AppTest:
    at.file_uploader(key="upload_run").set_value(("run.json", data, "application/json")).run(timeout=120)
    assert not at.exception
    return at


def data_of(run: Run) -> bytes:
    return runs.run_text(run).encode()


def test_without_a_run_the_page_says_what_one_gives_and_how_to_make_it() -> None:
    at = page()
    assert any("planner calibrate" in block.value for block in at.code)
    assert any("No run of this GPU" in text.value for text in at.markdown)
    assert at.metric[0].value.endswith("GB/s")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("stored", [False, True])
def test_every_view_opens_with_and_without_a_run(view: str, stored: bool, folder: Path) -> None:
    if stored:
        runs.write_run(fitted_run(products()), folder)
        runs.write_run(runs.sealed(fitted_run(products(1.2)).model_copy(update={"id": "later"})), folder)
    at = page()
    at.session_state["run_views"] = view
    at.run()
    assert not at.exception
    assert ("measured" in shown(at)) is stored


def test_a_gpu_and_a_run_that_came_since_the_page_was_opened_are_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    at = page()
    own = tmp_path / "llm-capacity-planner" / "hardware_profiles"
    own.mkdir(parents=True)
    profile = {"id": "h298", "name": "H298", "vendor": "X", "label_gb": 9, "bandwidth_gb_per_s": 9, "bf16_tflops": 9}
    (own / "h298.yaml").write_text(json.dumps(profile))
    runs.write_run(fitted_run(products()), folder)
    at.run()
    assert any("H298" in choice for choice in at.selectbox(key=calibrating.GPU).options)
    assert "measured" in shown(at)


def test_an_uploaded_run_counts_at_once_for_this_visitor_only(folder: Path) -> None:
    at = brought(page(), data_of(fitted_run(products())))
    assert "rest on it" in shown(at) and not list(folder.rglob("*.json"))
    at.switch_page(PAGES[0]).run()
    run_id = fitted_run(products()).id
    assert any(run_id in caption.value.replace("\\", "") for caption in at.caption)
    other = opened(model="Qwen/Qwen3-8B", gpu="h200-sxm", weight_format="bf16")
    assert not any(run_id in caption.value.replace("\\", "") for caption in other.caption)


def test_an_uploaded_run_can_be_forgotten() -> None:
    at = brought(page(), data_of(fitted_run(products())))
    at.button(key="forget").click().run()
    assert (not at.exception and "from the datasheet" in shown(at)) or "published" in shown(at)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "nested"),
        (b"{}", "not a calibration run"),
        (data_of(fitted_run(products())).replace(b'"reps": ', b'"reps": 1'), "checksum"),
        (data_of(runs.sealed(fitted_run(products()).model_copy(update={"gpu": "nobodys-gpu"}))), "has no profile"),
        (data_of(runs.sealed(fitted_run(products()).model_copy(update={"created": "2026-99-01T00:00:00Z"}))), "moment"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_a_bad_run_is_one_line_and_changes_nothing(data: bytes, says: str) -> None:
    at = brought(page(), data)
    assert len(at.error) == 1 and says in at.error[0].value.replace("\\", "") and "\n" not in at.error[0].value
    assert "rest on it" not in shown(at)


def test_a_run_of_too_many_points_is_refused_before_it_is_fitted() -> None:
    run = fitted_run(products())
    many = run.model_copy(update={"points": run.points * (calibrating.MOST_POINTS // len(run.points) + 1)})
    with pytest.raises(BadFile, match="points"):
        calibrating.fitted(many)


def test_a_fit_that_never_ends_or_dies_is_said_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    run = fitted_run(products())
    with monkeypatch.context() as patch, pytest.raises(BadFile, match="could not be fitted"):
        patch.setattr(calibrating, "FIT_S", 0.0)
        calibrating.fitted(run)
    os.kill(calibrating._pool().submit(os.getpid).result(), signal.SIGKILL)
    with pytest.raises(BadFile, match="could not be fitted"):
        calibrating.fitted(run)
    assert calibrating.fitted(run).id == run.id


def test_a_damaged_file_among_the_runs_is_named(folder: Path) -> None:
    (folder / "h200-sxm").mkdir()
    (folder / "h200-sxm" / "torn.json").write_text('{"points": [')
    at = page()
    at.session_state["all_runs"] = True
    at.run()
    assert any("torn" in caption.value for caption in at.caption)


def test_the_page_opens_on_the_gpu_that_is_planned_for_and_says_so_in_the_address() -> None:
    at = page()
    assert at.selectbox(key="c_gpu").value == "h200-sxm" and at.query_params["gpu"] in ("h200-sxm", ["h200-sxm"])


def test_a_run_of_a_sibling_is_said_to_be_transferred(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "reference", lambda name: None)
    runs.write_run(fitted_run(products()), folder)
    at = page()
    at.selectbox(key="c_gpu").set_value("h100-sxm").run()
    assert "transferred from H200" in shown(at)


@pytest.mark.parametrize("view", VIEWS)
def test_a_reference_is_shown_by_its_curves_and_its_errors(view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = fit(fitted_run(products()), gpu("l4")).model_copy(update={"gpu": "l4", "source": "some published tables"})
    monkeypatch.setattr(evidence, "reference", lambda name: shipped if name == "l4" else None)
    at = page()
    at.selectbox(key="c_gpu").set_value("l4").run()
    at.session_state["run_views"] = view
    at.run()
    assert not at.exception
    assert "from published measurements" in shown(at) and "some published tables" in shown(at)
    if view == "Formats against batch":
        assert any("AWQ INT4, groups of 128: from the datasheet" in caption.value for caption in at.caption)
    assert any("planner calibrate" in block.value for block in at.code)


def test_an_older_run_can_be_looked_at_and_is_not_said_to_be_used(folder: Path) -> None:
    old = fitted_run(products())
    runs.write_run(old, folder)
    runs.write_run(runs.sealed(old.model_copy(update={"id": "later", "created": "2026-11-28T00:00:00Z"})), folder)
    at = page()
    assert "rest on it" in shown(at)
    at.selectbox(key="run_of_h200-sxm").select_index(1).run()
    assert old.id in shown(at) and "estimates rest on later instead" in shown(at)
