"""A model as the judge: both orders, what it may not decide, what is asked again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("scipy")

from quality.server import KEY, Server

from planner.cli.main import run
from tests.quality.files import lines

N = 60
FILES = ("--baseline", "before.jsonl", "--candidate", "after.jsonl")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The candidate's answer is bad in 12 of 60, worded otherwise in 20, and the same in 28."""
    monkeypatch.chdir(tmp_path)
    lines("mine.jsonl", [{"id": f"e{i}", "prompt": f"say w{i}", "scorers": ["judge"]} for i in range(N)])
    lines("before.jsonl", [{"id": f"e{i}", "output": f"good {i}"} for i in range(N)])
    said = ["bad"] * 12 + ["good, otherwise"] * 20 + ["good"] * 28
    lines("after.jsonl", [{"id": f"e{i}", "output": f"{said[i]} {i}"} for i in range(N)])
    return tmp_path


def fair(prompt: str) -> str:
    """Prefers what is not bad, whatever its place."""
    a, b = ("bad" in part for part in re.findall(r"<answer_[AB]>(.*?)</answer_[AB]>", prompt, re.DOTALL))
    return "One is wrong.\nverdict: " + ("tie" if a == b else "B" if a else "A")


def checked(server: Server, capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> dict[str, Any]:
    judge = ("--judge", server.url, "--judge-model", "m", "--retries", "0", "--json", *more)
    assert run(["quality-check", "mine.jsonl", *FILES, *judge]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_what_the_judge_prefers_in_both_orders_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as server:
        server.reply = fair
        found = checked(server, capsys)
        assert (found["verdict"], found["parts"][0]["worse"], found["parts"][0]["better"]) == ("cracks", 12, 0)
        assert len(server.bodies) == 2 * 32  # equal answers are not shown
        assert "32 of 60 pairs in both orders" in found["sentences"][-1]
        checked(server, capsys)
        assert len(server.bodies) == 2 * 32  # nor is anything asked twice


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda prompt: "verdict: A", "contradicts itself in 32 and is unclear in 0"),
        (lambda prompt: "Both are fine, I think.", "contradicts itself in 0 and is unclear in 32"),
    ],
)
def test_a_judge_of_places_or_of_nothing_decides_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], reply: Callable[[str], str], said: str
) -> None:
    with Server() as server:
        server.reply = reply
        found = checked(server, capsys)
    assert (found["verdict"], found["parts"][0]["worse"], found["parts"][0]["better"]) == ("cannot tell", 0, 0)
    assert said in found["sentences"][-1]


def test_a_judge_that_sees_nothing_vouches_for_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as server:
        server.reply = fair
        assert checked(server, capsys, "--tolerance-points", "40")["verdict"] == "holds"
    with Server() as server:
        server.reply = lambda prompt: "verdict: A"
        more = ("--tolerance-points", "40", "--journal", "another")
        assert checked(server, capsys, *more)["verdict"] == "cannot tell"


def test_a_pair_without_a_judgement_is_open_and_asked_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server() as server:
        server.reply = fair
        server.faults = {"</answer_B>": ("400", 1)}
        found = checked(server, capsys, code=2)
        assert found["unanswered"] == 1 and list(found["failed"]) == ["judge: e0"]
        assert checked(server, capsys)["unanswered"] == 0 and len(server.bodies) == 2 * 32 + 1


def test_the_judges_key_goes_into_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANNER_JUDGE_API_KEY", KEY)
    with Server(key=KEY) as server:
        server.reply = fair
        checked(server, capsys)
    assert all(KEY not in path.read_text("utf-8") for path in folder.rglob("*") if path.is_file())


def test_a_judge_that_is_not_given_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quality-check", "mine.jsonl", *FILES]) == 2
    said = capsys.readouterr().err
    assert "example 'e0': judge needs an endpoint that judges" in said and said.count("\n") == 1
