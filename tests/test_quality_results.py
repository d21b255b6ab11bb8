"""Results of own checks as files: what is written is read, what is none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.catalog import quality_results
from planner.errors import BadFile
from planner.specs.quality import QualityResult, Verdict


def result(**fields: object) -> QualityResult:
    name, made = quality_results.new_id()
    given = {
        "id": name, "made": made, "model": "Qwen/Qwen3-8B", "weight_format": "awq-int4-g128", "verdict": "cracks",
        "difference_points": -6.0, "low": -9.5, "high": -2.5, "n": 200, "tolerance_points": 2.0,
    }  # fmt: skip
    return QualityResult.model_validate({**given, **fields})


def test_what_is_kept_is_found_again_newest_first(tmp_path: Path) -> None:
    old = result(made="2026-01-01T00:00:00Z", id="20260101t000000z-00000000", task_family="code")
    new = result(kv_format="fp8", verdict=Verdict.HOLDS)
    for one in (new, old):
        quality_results.keep(one, tmp_path)
    assert quality_results.stored_results(tmp_path) == ((new, old), ())


def test_the_folder_is_the_environments_or_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(quality_results.RESULTS_DIR, str(tmp_path / "deep" / "own"))
    assert quality_results.stored_results() == ((), ())
    one = result()
    assert quality_results.keep(one) == tmp_path / "deep" / "own" / f"{one.id}.json"
    assert quality_results.stored_results().results == (one,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[]", "no result of a quality check"),
        ('{"id": "x"}', "no result of a quality check"),
        ("x" * 20_000, "more than the 16384"),
        (result().model_dump_json().replace("-9.5", "-1.5"), "outside its interval"),
        (result().model_dump_json().replace("-9.5", "1e999"), "out of range"),
        (result().model_dump_json().replace("}", ',"more":1}'), "more"),
    ],
)
def test_a_file_that_is_no_result_is_named_and_skipped(tmp_path: Path, text: str, said: str) -> None:
    kept = result()
    quality_results.keep(kept, tmp_path)
    (tmp_path / "other.json").write_text(text)
    found = quality_results.stored_results(tmp_path)
    assert found.results == (kept,) and len(found.damaged) == 1
    assert "other.json" in found.damaged[0] and said in found.damaged[0]


def test_a_full_folder_refuses_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_results, "MOST_RESULTS", 2)
    for _ in range(2):
        quality_results.keep(result(), tmp_path)
    with pytest.raises(BadFile, match="holds 2 results already"):
        quality_results.keep(result(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    path = quality_results.keep(result(), elsewhere)
    home = tmp_path / "home"
    home.mkdir()
    (home / path.name).symlink_to(path)
    assert quality_results.stored_results(home) == ((), ())
