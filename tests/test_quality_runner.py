"""Answers from an endpoint: what goes wrong there, what is kept, what is asked again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("openai")

from quality.server import KEY, Server

from planner.errors import BadFile, BadValue, PlannerError
from planner.quality import runner
from planner.quality.examples import Example
from planner.quality.runner import Endpoint, ask

KEY_ENV = "PLANNER_TEST_KEY"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FIRST_PAUSE_S", 0.02)


def examples(n: int) -> list[Example]:
    return [Example.model_validate({"id": f"e{i}", "prompt": f"say w{i}"}) for i in range(n)]


def endpoint(url: str, **fields: object) -> Endpoint:
    given = {"side": "candidate", "base_url": url, "model": "m", "key_env": KEY_ENV, "retries": 2, "timeout_s": 2.0}
    return Endpoint.model_validate({**given, **fields})


def test_every_example_is_answered_once_and_in_order(tmp_path: Path) -> None:
    with Server() as server:
        done = ask(endpoint(server.url), examples(30), tmp_path / "j.jsonl")
        assert [one.output for one in done.answers] == [f"echo w{i}" for i in range(30)]
        assert not done.failed and set(server.asked.values()) == {1}
        assert {(body["temperature"], body["model"]) for body in server.bodies} == {(0.0, "m")}


@pytest.mark.parametrize("fault", ["429", "500", "cut", "malformed"])
def test_a_passing_fault_is_tried_again(tmp_path: Path, fault: str) -> None:
    with Server() as server:
        server.faults = {"w0": (fault, 1), "w5": (fault, 2)}
        done = ask(endpoint(server.url), examples(12), tmp_path / "j.jsonl")
        assert len(done.answers) == 12 and not done.failed
        assert (server.asked["w0"], server.asked["w5"], server.asked["w7"]) == (2, 3, 1)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("slow", "within 0.5 s"),
        ("500", "HTTP 500"),
        ("400", "HTTP 400"),
        ("cut", "broke"),
        ("malformed", "not JSON"),
        ("endless", "bytes of answer"),
    ],
)
def test_a_lasting_fault_of_one_example_costs_only_that_example(tmp_path: Path, fault: str, said: str) -> None:
    with Server() as server:
        server.faults = {"w5": (fault, -1)}
        done = ask(
            endpoint(server.url, timeout_s=0.5 if fault == "slow" else 5.0, retries=1),
            examples(12),
            tmp_path / "j.jsonl",
        )
        assert len(done.answers) == 11 and list(done.failed) == ["e5"] and said in done.failed["e5"]
        server.faults, server.asked = {}, server.asked.__class__()
        again = ask(endpoint(server.url), examples(12), tmp_path / "j.jsonl")
        assert len(again.answers) == 12 and dict(server.asked) == {"w5": 1}


@pytest.mark.parametrize(
    ("fault", "said"), [("404", "no such path or model"), ("other", "not compatible"), ("307", "not followed")]
)
def test_an_endpoint_of_no_use_is_named_at_once(tmp_path: Path, fault: str, said: str) -> None:
    with Server() as server:
        server.faults = {f"w{i}": (fault, -1) for i in range(12)}
        with pytest.raises(BadValue, match=rf"^candidate: http.*{said}"):
            ask(endpoint(server.url, concurrency=3), examples(12), tmp_path / "j.jsonl")
        assert sum(server.asked.values()) <= 3  # those in flight


def test_an_endpoint_that_is_down_is_named(tmp_path: Path) -> None:
    with Server() as server:
        url = server.url
    with pytest.raises(BadValue, match=r"^candidate: http.*cannot be reached"):
        ask(endpoint(url, retries=1), examples(12), tmp_path / "j.jsonl")


def test_an_endpoint_that_goes_down_keeps_what_it_answered(tmp_path: Path) -> None:
    with Server() as server:
        server.faults = {f"w{i}": ("500", -1) for i in range(20, 40)}
        with pytest.raises(BadValue, match="answers are kept"):
            ask(endpoint(server.url, retries=0, concurrency=1), examples(40), tmp_path / "j.jsonl")
        server.faults = {}
        server.asked.clear()
        assert len(ask(endpoint(server.url), examples(40), tmp_path / "j.jsonl").answers) == 40
        assert not any(f"w{i}" in server.asked for i in range(20))


def test_a_wrong_key_is_refused_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(key="another-key-of-the-server") as server:
        monkeypatch.setenv(KEY_ENV, KEY)
        with pytest.raises(BadValue, match="the key is not accepted") as refused:
            ask(endpoint(server.url), examples(12), tmp_path / "j.jsonl")
    assert KEY not in str(refused.value)


def test_a_key_goes_to_the_server_and_into_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    with Server(key=KEY) as server:
        assert len(ask(endpoint(server.url), examples(12), tmp_path / "j.jsonl").answers) == 12
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "url", ["http://user:pw@host/v1", "http://h/v1?key=x", "ftp://h/v1", "http:///v1", "http://h:99999/"]
)
def test_a_url_that_cannot_be_used_or_holds_a_secret_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadValue, match=r"^candidate: ") as refused:
        ask(endpoint(url), examples(12), tmp_path / "j.jsonl")
    assert "pw" not in str(refused.value) and not list(tmp_path.iterdir())


def test_a_key_that_no_header_takes_is_refused_unsaid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, "sk-one\nsk-two")
    with pytest.raises(BadValue, match=rf"^candidate: the key in {KEY_ENV}") as refused:
        ask(endpoint("http://127.0.0.1:9/v1"), examples(12), tmp_path / "j.jsonl")
    assert "sk-" not in str(refused.value)


def test_half_a_character_is_kept_as_text_that_files_take(tmp_path: Path) -> None:
    with Server() as server:
        server.faults = {"w3": ("surrogate", -1)}
        done = ask(endpoint(server.url), examples(10), tmp_path / "j.jsonl")
    assert done.answers[3].output == "half ?" and not done.failed


def test_a_journal_with_a_line_of_something_else_is_named(tmp_path: Path) -> None:
    with Server() as server:
        ask(endpoint(server.url), examples(10), tmp_path / "j.jsonl")
        with (tmp_path / "j.jsonl").open("a") as file:
            file.write('{"hello": 1}\n')
        with pytest.raises(BadFile, match=r"^candidate: .*line 12"):
            ask(endpoint(server.url), examples(10), tmp_path / "j.jsonl")


def test_no_more_requests_are_in_flight_than_allowed(tmp_path: Path) -> None:
    with Server(delay_s=0.02) as server:
        ask(endpoint(server.url, concurrency=3), examples(30), tmp_path / "j.jsonl")
        assert server.most_at_once == 3


def test_repeats_differ_in_their_seed(tmp_path: Path) -> None:
    with Server() as server:
        done = ask(endpoint(server.url, repeats=3, temperature=0.7, seed=5), examples(10), tmp_path / "j.jsonl")
        assert len(done.answers) == 30 and {body["seed"] for body in server.bodies} == {5, 6, 7}
        more = ask(endpoint(server.url, repeats=4, temperature=0.7, seed=5), examples(10), tmp_path / "j.jsonl")
        assert (len(more.answers), more.resumed, len(server.bodies)) == (40, 30, 40)


def test_a_journal_of_other_settings_or_examples_is_not_gone_on_with(tmp_path: Path) -> None:
    with Server() as server:
        ask(endpoint(server.url), examples(10), tmp_path / "j.jsonl")
        before = (tmp_path / "j.jsonl").read_bytes()
        for given, asked in ((endpoint(server.url, model="other"), examples(10)), (endpoint(server.url), examples(11))):
            with pytest.raises(BadFile, match=r"^candidate: .*another --journal"):
                ask(given, asked, tmp_path / "j.jsonl")
        assert (tmp_path / "j.jsonl").read_bytes() == before


def test_a_journal_torn_anywhere_goes_on(tmp_path: Path) -> None:
    with Server() as server:
        ask(endpoint(server.url), examples(10), tmp_path / "whole")
        whole = (tmp_path / "whole").read_bytes()
        for cut in random.Random(4).sample(range(len(whole)), 25):
            (tmp_path / "torn").write_bytes(whole[:cut])
            done = ask(endpoint(server.url), examples(10), tmp_path / "torn")
            assert len(done.answers) == 10 and done.resumed == max(whole[:cut].count(b"\n") - 1, 0)


CHILD = """
import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])
from planner.quality.runner import ask; import test_quality_runner as t
ask(t.endpoint(sys.argv[1], concurrency=4), t.examples(60), Path(sys.argv[2]))
"""


def test_a_kill_at_any_moment_loses_only_the_requests_in_flight(tmp_path: Path) -> None:
    here, journal, rng = Path(__file__).parent, tmp_path / "j.jsonl", random.Random(7)
    environment = {**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    with Server(delay_s=0.05) as server:
        for _ in range(3):
            answered = sum(server.asked.values())
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, server.url, str(journal), str(here)], env=environment
            )
            while sum(server.asked.values()) < answered + rng.randint(1, 12) and child.poll() is None:
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            child.wait()
        time.sleep(0.2)
        kept = journal.read_bytes().count(b"\n") - 1
        assert sum(server.asked.values()) - kept <= 3 * 4
        assert len(ask(endpoint(server.url, concurrency=4), examples(60), journal).answers) == 60


def test_two_checks_do_not_share_a_journal(tmp_path: Path) -> None:
    from planner.quality.journal import Journal

    held = Journal(tmp_path / "j", "candidate", "x")
    try:
        with pytest.raises(PlannerError, match="in use"):
            Journal(tmp_path / "j", "candidate", "x")
    finally:
        held.close()
