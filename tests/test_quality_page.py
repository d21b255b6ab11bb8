"""The quality check's page: what it lets whom do, what it says, what it keeps."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("scipy")
pytest.importorskip("jsonschema")
from streamlit.testing.v1 import AppTest

import access
import checking
from defaults import first_scenario
from planner.catalog import quality_results
from planner.errors import BadValue
from planner.estimate import estimate
from planner.quality.examples import TEMPLATE
from planner.quality.session import Settings

APP = Path(__file__).resolve().parent.parent / "app"
HOSTILE = "<img src=x onerror=alert(1)> ![](http://h/i.png) [a](javascript:alert(1))"
END_S = 60.0


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(access.ENDPOINTS, raising=False)


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "is_local", lambda: True)


def opened() -> AppTest:
    at = AppTest.from_file(str(APP / "main.py"), default_timeout=60).run()
    return ran(at.switch_page("views/quality_check.py"))


def ran(at: AppTest) -> AppTest:
    at.run()
    assert not at.exception, [item.stack_trace for item in at.exception]
    return at


def brought(at: AppTest, kind: str, name: str, data: bytes) -> AppTest:
    at.file_uploader(key=f"qc_up_{kind}").set_value((name, data, "application/jsonl"))
    return ran(at)


def checked(at: AppTest) -> AppTest:
    at.button(key="qc_go").click()
    ran(at)
    end = time.monotonic() + END_S
    while not (at.success or at.warning or at.error):
        assert time.monotonic() < end
        time.sleep(0.2)
        ran(at)
    return at


def said(at: AppTest) -> str:
    kinds = (at.error, at.warning, at.success, at.info)
    return "\n".join(f"{item.proto.title} {item.value}" for kind in kinds for item in kind).replace("\\", "")


def test_visitors_of_a_network_are_offered_no_address_to_type() -> None:
    at = opened()
    assert at.session_state["qc_mode"] == "Two files of answers"
    assert not at.text_input and "asks no endpoints for its visitors" in " ".join(item.value for item in at.caption)
    assert not [box for box in at.checkbox if box.key == "qc_tests"]


def test_visitors_choose_among_the_operators_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(access.ENDPOINTS, "http://a:8000/v1 http://b:8000/v1")
    at = opened()
    for side in ("baseline", "candidate"):
        assert at.selectbox(key=f"qc_{side}").options == ["http://a:8000/v1", "http://b:8000/v1"]
    assert not [box for box in at.text_input if box.label == "Address"]


@pytest.mark.parametrize(
    "crafted",
    [
        {"baseline": "http://169.254.169.254/v1"},
        {"candidate": "/etc/hosts"},
        {"judge": "http://127.0.0.1:9/v1"},
        {"concurrency": 1024},
    ],
)
def test_a_visitors_browser_cannot_ask_for_more_than_the_page_offers(
    monkeypatch: pytest.MonkeyPatch, crafted: dict[str, Any]
) -> None:
    monkeypatch.setenv(access.ENDPOINTS, "http://a:8000/v1")
    settings = Settings.model_validate({"baseline": "http://a:8000/v1", **crafted})
    with pytest.raises(BadValue, match="for its visitors"):
        checking.begin(settings, [], run_tests=False, local=False)
    with pytest.raises(BadValue, match="for its visitors"):
        checking.begin(Settings.model_validate({}), [], run_tests=True, local=False)


def test_the_users_own_machine_may_ask_what_it_likes(local: None) -> None:
    at = opened()
    assert [box.label for box in at.text_input] == ["Address", "Model"] * 2
    assert at.button(key="qc_go").disabled


@pytest.mark.parametrize(
    ("host", "allowed", "headers", "expected"),
    [
        ("127.0.0.1", ["localhost"], {"Host": "localhost:8501"}, True),
        ("::1", ["127.0.0.1"], {"Host": "[::1]:8501"}, True),
        ("0.0.0.0", ["localhost"], {"Host": "localhost:8501"}, False),
        (None, ["localhost"], {"Host": "localhost:8501"}, False),
        ("127.0.0.1", ["planner.example.org"], {"Host": "localhost:8501"}, False),
        ("127.0.0.1", ["localhost"], {"Host": "planner.example.org"}, False),
        ("127.0.0.1", ["localhost"], {"Host": "127.0.0.1.example.org"}, False),
        ("127.0.0.1", ["localhost"], {"Host": "localhost", "X-Forwarded-For": "10.0.0.7"}, False),
        ("127.0.0.1", ["localhost"], {}, False),
    ],
)
def test_only_this_machine_itself_is_local(
    monkeypatch: pytest.MonkeyPatch, host: str | None, allowed: list[str], headers: dict[str, str], expected: bool
) -> None:
    options: dict[str, Any] = {"server.address": host, "server.allowedHosts": allowed}
    monkeypatch.setattr(access.st, "get_option", options.__getitem__)
    monkeypatch.setattr(access.st, "context", SimpleNamespace(headers=headers))
    assert access.is_local() is expected


def test_the_sample_gives_a_verdict_and_its_flips() -> None:
    at = opened()
    at.button(key="qc_sample").click()
    at = checked(ran(at))
    assert "Cannot tell: 12 examples" in said(at) and "3 of 12 examples got worse" in said(at)
    assert [code.value for code in at.code][:2] == [
        '{"vendor": "Nordlys AS", "total": 1240.00}',
        'Here is the JSON:\n{"vendor": "Nordlys AS", "total": "1,240.00"}',
    ]
    assert not [button for button in at.button if button.key == "qc_attach"]  # invented, so no evidence


def test_what_is_attached_is_found_by_the_recommendation(local: None) -> None:
    at = opened()
    at.button(key="qc_sample").click()
    own = TEMPLATE.read_bytes().replace(b"desk lamp", b"chair")
    at = checked(brought(ran(at), "examples", "mine.jsonl", own))
    at.selectbox(key="qc_family").set_value("tool calls")
    ran(at)
    at.button(key="qc_attach").click()
    ran(at)
    (kept,) = quality_results.stored_results().results
    assert (kept.n, kept.verdict.value, kept.task_family, kept.difference_points) == (12, "cannot tell", "tools", -25)
    asked = first_scenario()
    rows = estimate([asked.model_copy(update={"task_family": family}) for family in ("tools", "code")]).rows()
    assert rows[0]["quality_evidence"] == "own test" != rows[1]["quality_evidence"]
    assert rows[0]["quality_loss_points"] == 25


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"not json\n", "line 1: not JSON"),
        (b'{"id": "a"}\n', "example 'a': has neither prompt nor messages"),
        (b'{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "x"}\n', "the id 'a' stands already in line 1"),
        (b'{"id": "a", "prompt": "x"}\n', "1 examples; a check takes 10 to 10,000"),
        (b"PK\x03\x04", "an archive"),
    ],
)
def test_a_file_with_a_fault_is_named_at_once(data: bytes, fault: str) -> None:
    at = brought(opened(), "examples", "mine.jsonl", data)
    assert "mine.jsonl" in said(at) and fault in said(at)
    assert at.button(key="qc_go").disabled


def test_answers_to_other_examples_are_refused_by_side() -> None:
    at = opened()
    at.button(key="qc_sample").click()
    at = brought(ran(at), "candidate", "after.jsonl", b'{"id": "other", "output": "x"}\n')
    assert "candidate: answers an example that is not there: 'other'" in said(checked(at))


def test_texts_of_strangers_stay_texts() -> None:
    rows = [{"id": f"{HOSTILE} {i}", "prompt": HOSTILE, "reference": "ok", "tags": [HOSTILE]} for i in range(10)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    answers = {
        side: "".join(json.dumps({"id": row["id"], "output": output}) + "\n" for row in rows).encode()
        for side, output in (("baseline", "ok"), ("candidate", HOSTILE))
    }
    at = opened()
    at.session_state["qc_mode"] = "Two files of answers"
    at = brought(ran(at), "examples", "mine.jsonl", lines)
    for side, data in answers.items():
        at = brought(at, side, f"{side}.jsonl", data)
    at = checked(at)
    shown = [item.value for kind in (at.markdown, at.caption, at.error) for item in kind]
    assert not [text for text in shown if re.search(r"(?<!\\)(?:<img|!\[|\]\()", text)]
    assert "cracks" in said(at).lower()


def test_without_its_libraries_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.quality.session.NEEDED", ("scipy", "a_library_that_is_not_there"))
    at = opened()
    assert "a quality check needs a_library_that_is_not_there: pip install" in said(at) and not at.button


def test_the_template_is_a_file_that_the_page_takes(local: None) -> None:
    at = brought(opened(), "examples", "my-examples.jsonl", TEMPLATE.read_bytes())
    assert not at.error and "12 examples" in " ".join(item.value for item in at.caption)
