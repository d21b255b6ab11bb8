"""The whole check through the command: files and endpoints in, a verdict and reports out."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("openai")
pytest.importorskip("scipy")

from quality.server import KEY, Server

from planner.catalog import quality_results
from planner.cli.main import run
from planner.quality.check import manner, refuses
from planner.quality.examples import Answer
from tests.quality.files import lines

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """120 examples; the baseline answers all rightly, the candidate misses 20 of the 40 about tools."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"e{i}", "prompt": f"say w{i}", "reference": f"echo w{i}", "tags": ["tools" if i < 40 else "chat"]}
        for i in range(120)
    ]
    lines("mine.jsonl", rows)
    lines("before.jsonl", [{"id": row["id"], "output": row["reference"]} for row in rows])
    lines("after.jsonl", [{"id": r["id"], "output": HOSTILE if i < 20 else r["reference"]} for i, r in enumerate(rows)])
    return tmp_path


def check(*more: str) -> int:
    return run(["quality-check", "mine.jsonl", *more])


FILES = ("--baseline", "before.jsonl", "--candidate", "after.jsonl")


def test_two_files_give_a_verdict_with_its_interval(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(*FILES) == 0
    out = capsys.readouterr().out
    assert out.startswith("Cracks: the candidate is worse on these examples, worst shown in tools")
    assert "20 of 120 examples got worse, 0 better: -16.7 points (" in out


def test_json_holds_the_parts_and_the_flips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(*FILES, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    verdicts = {part["tag"]: part["verdict"] for part in said["parts"]}
    assert said["verdict"] == "cracks" and verdicts == {"all": "cracks", "tools": "cracks", "chat": "cannot tell"}
    assert len(said["worse"]) == 20 and not said["better"] and said["evidence"] == "your own test"


def test_the_same_answers_cannot_tell_or_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = ("--baseline", "before.jsonl", "--candidate", "before.jsonl")
    assert check(*same) == 0 and "120 examples cannot see 2 points" in capsys.readouterr().out
    assert check(*same, "--tolerance-points", "5") == 0 and capsys.readouterr().out.startswith("Holds")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name in ("src", "href", "onload", "onclick") for name, _ in attrs)


def test_the_report_shows_flips_and_runs_nothing(folder: Path) -> None:
    assert check(*FILES, "--html", "report.html", "--csv", "rows.csv") == 0
    text, tags = Path("report.html").read_text("utf-8"), _Tags()
    tags.feed(text)
    assert "script" not in tags.seen and HOSTILE not in text and text.count("<h3>") == 20
    rows = list(csv.DictReader(io.StringIO(Path("rows.csv").read_text("utf-8"))))
    assert len(rows) == 120 and sum(row["change"] == "worse" for row in rows) == 20


def test_a_file_before_and_an_endpoint_after(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as server:
        live = ("--candidate", server.url, "--candidate-model", "m", "--tolerance-points", "5", "--json")
        assert check("--baseline", "before.jsonl", *live) == 0
        said = json.loads(capsys.readouterr().out)
        speed = said["observations"]["candidate"]
        assert said["verdict"] == "holds" and (speed["max_concurrency"], speed["completed"]) == (8, 120)
        assert speed["output_throughput"] == pytest.approx(240 / speed["duration"])
        assert check("--baseline", "before.jsonl", *live) == 0 and sum(server.asked.values()) == 120
        assert json.loads(capsys.readouterr().out)["observations"] == {}  # its time was another run's


def test_the_candidates_speed_is_written_for_observe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as server:
        name = "meta-llama/Llama-3.1-8B-Instruct"
        live = ("--candidate", server.url, "--candidate-model", name, "--observation", "speed.json")
        assert check("--baseline", "before.jsonl", *live) == 0
    speed = json.loads(Path("speed.json").read_text("utf-8"))
    assert (speed["total_input_tokens"], speed["total_output_tokens"], speed["failed"]) == (360, 240, 0)
    capsys.readouterr()
    assert run(["observe", "speed.json", "--gpu", "h100-sxm"]) == 0
    assert "Llama-3.1-8B-Instruct h100-sxm 3/2 c8" in capsys.readouterr().out
    assert check(*FILES, "--observation", "none.json") == 0 and not Path("none.json").exists()
    assert "no observation" in capsys.readouterr().err


def test_what_failed_is_said_and_repeated_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANNER_CANDIDATE_API_KEY", KEY)
    with Server(key=KEY) as server:
        server.faults = {"w7": ("400", -1)}
        live = ("--candidate", server.url, "--candidate-model", "m", "--tolerance-points", "5")
        assert check("--baseline", "before.jsonl", *live) == 2
        said = capsys.readouterr()
        assert "no answer: candidate: e7: HTTP 400" in said.err and "without an answer of both sides: 1;" in said.out
        server.faults = {}
        assert check("--baseline", "before.jsonl", *live, "--html", "r.html") == 0
        assert server.asked["w7"] == 2 and server.asked["w8"] == 1
    assert all(KEY not in path.read_text("utf-8") for path in folder.rglob("*") if path.is_file())


def test_a_journal_is_a_file_of_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as server:
        live = ("--candidate", server.url, "--candidate-model", "m", "--journal", "kept")
        assert check("--baseline", "before.jsonl", *live) == 0
    assert check("--baseline", "kept/candidate.jsonl", "--candidate", "kept/candidate.jsonl") == 0
    assert "0 of 120 examples got worse" in capsys.readouterr().out


def test_a_verdict_is_kept_as_own_test(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(quality_results.RESULTS_DIR, str(folder / "own"))
    assert check(*FILES, "--attach", "Qwen/Qwen3-8B-AWQ", "--task-family", "tool_calls") == 0
    (kept,) = quality_results.stored_results().results
    assert (kept.model, kept.weight_format, kept.task_family) == ("Qwen/Qwen3-8B", "awq-int4-g128", "tools")
    assert (kept.verdict.value, kept.n) == ("cracks", 120) and kept.low < kept.difference_points < -16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--baseline", "before.jsonl"), "candidate: nothing is given"),
        (("--baseline", "http://h/v1", "--candidate", "after.jsonl"), "baseline: which model?"),
        (("--baseline", "none.jsonl", "--candidate", "after.jsonl"), "none.jsonl: no such file"),
        ((*FILES, "--scorer", "exat"), "did you mean 'exact'?"),
        ((*FILES, "--tolerance-points", "0"), "--tolerance-points '0'"),
        ((*FILES, "--repeats", "many"), "--repeats 'many'"),
        ((*FILES, "--attach", "Qwen/Qwen3-8B"), "in which format?"),
        ((*FILES, "--attach", "Qwen/Qwen3-9000"), "unknown model"),
        ((*FILES, "--attach", "Qwen/Qwen3-8B-AWQ", "--task-family", "chess"), "chess"),
        ((*FILES, "--json", "--csv", "-"), "both write to standard output"),
        (("--baseline", "http://u:secret@h/v1", "--candidate", "after.jsonl"), "baseline: a URL with a name"),
    ],
)
def test_bad_input_is_one_line_that_names_the_side(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert check(*arguments) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and "secret" not in err


def test_a_file_alone_is_checked_and_its_reach_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check() == 0
    out = capsys.readouterr().out
    assert "120 examples, scored by normalised; tags: chat, tools" in out and "cannot see 2 points; 394 can" in out


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist.", True),
        ("As an AI language model, I am unable to do so.", True),
        ("Sorry for the delay: the total is 5.", False),
        ("The can opener? I can help.", False),
    ],
)
def test_refusals_are_known_by_their_first_words(text: str, refusal: bool) -> None:
    assert refuses(Answer(id="a", output=text)) is refusal


def test_speed_is_tokens_over_time_of_the_answers_that_hold_both() -> None:
    answers = [
        Answer(id="a", output="x", completion_tokens=30, latency_s=1.0),
        Answer(id="b", output="xyz", completion_tokens=10, latency_s=1.0, finish_reason="length"),
        Answer(id="c", output="xx"),
    ]
    found = manner(answers)
    assert (found.tokens_per_s_per_request, found.mean_completion_tokens, found.mean_characters) == (20.0, 20.0, 2.0)
    assert found.cut_rate == 1.0 and found.median_latency_s == 1.0
