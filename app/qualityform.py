"""What a quality check is given: the examples, both sides, and how they are asked."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import streamlit as st

from access import named_endpoints
from checking import KINDS, VISITOR_AT_ONCE, bring, bring_sample, brought
from planner.quality.examples import TEMPLATE, ScorerKind
from planner.quality.session import Settings
from words import plain

LOCAL_MB, VISITOR_MB = 16, 1
LIVE, ONE_LIVE, TWO_FILES = MODES = ("Two endpoints", "Answers before, endpoint after", "Two files of answers")
SIDES = {"baseline": "Before: the baseline, not quantized", "candidate": "After: the candidate, quantized"}
KEYS = {
    "baseline": "PLANNER_BASELINE_API_KEY",
    "candidate": "PLANNER_CANDIDATE_API_KEY",
    "judge": "PLANNER_JUDGE_API_KEY",
}
BY_FIELDS = "as each example's fields ask"
DEFAULTS = Settings.model_validate({})


class Wanted(NamedTuple):
    """What to check, and what is missing before that can begin."""

    settings: Settings
    kinds: list[str]
    run_tests: bool
    missing: str


def what_to_collect() -> None:
    """Which examples, how many and why; the template and the sample."""
    st.markdown(
        "Published averages hide the one thing a product is built on. Ask both models **your own examples** "
        "and see which answers break. Ten minutes, and the verdict goes into the recommendation."
    )
    with st.expander("What to collect", icon=":material/checklist:", expanded=brought("examples") is None):
        st.markdown(
            "- **About 50 real requests** to begin with (10 to 10,000 are taken). From logs rather than invented: "
            "invented ones are cleaner than what comes in. Strip what is private.\n"
            "- **The messy ones too**: typing errors, empty fields, long inputs, two languages in one. "
            "Quantizing breaks the brittle cases first, and averages hide them.\n"
            "- **Each capability that would hurt if it broke**, marked with a tag: tool calls, strict JSON, "
            "figures out of long texts. Each tag is judged by itself.\n"
            "- **A right answer that can be checked** for each: a text, a number, a letter, a schema, the tool call.\n"
            "- 50 examples show large damage (15 points and more). Small drops take hundreds: "
            "for 2 points it takes about 400, and the verdict says so."
        )
    with st.container(horizontal=True):
        st.download_button(
            "Template", TEMPLATE.read_bytes, "my-examples.jsonl", "application/jsonl", on_click="ignore",
            key="qc_template", icon=":material/download:",
        )  # fmt: skip
        st.button(
            "Try the sample", key="qc_sample", on_click=_sample, icon=":material/science:",
            help="Twelve examples with invented answers of two sides, to see what comes out.",
        )  # fmt: skip


def _sample() -> None:
    bring_sample()
    st.session_state["qc_mode"] = TWO_FILES


def inputs(local: bool) -> Wanted:
    """Files, sides and settings as the page has them."""
    endpoints = None if local else named_endpoints()
    modes = MODES if local or endpoints else (TWO_FILES,)
    upload("examples", local)
    if "qc_mode" not in st.session_state or st.session_state["qc_mode"] not in modes:
        st.session_state["qc_mode"] = modes[0]
    mode = st.segmented_control("Answers come from", modes, key="qc_mode", required=True, persist_state="session")
    if not endpoints and not local:
        st.caption(
            "This server is reached over a network, so it asks no endpoints for its visitors. Run "
            "planner quality-check where the models are, and bring the two files of answers. "
            "Whoever runs this server can name endpoints: planner app --endpoint URL."
        )
    columns = st.columns(2)
    given: dict[str, Any] = {}
    for column, side in zip(columns, SIDES, strict=True):
        with column.container(border=True):
            st.markdown(f"**{SIDES[side]}**")
            if mode == TWO_FILES or (mode == ONE_LIVE and side == "baseline"):
                upload(side, local)
            else:
                given |= _endpoint(side, endpoints)
    files = [side for side in SIDES if side not in given]
    given |= _settings(live=len(files) < len(SIDES), endpoints=endpoints, open_to_all=not local)
    run_tests = bool(given.pop("run_tests", False))
    return Wanted(_checked(given), ["examples", *files], run_tests, _missing(given, files))


def upload(kind: str, local: bool) -> None:
    """An uploader; what it was given stays when the page is left."""
    most = LOCAL_MB if local else VISITOR_MB
    box = st.container()  # what is said of the file moves nothing below it, or what is being typed there would go
    box.file_uploader(
        f"{KINDS[kind]} (.jsonl or .csv)", ["jsonl", "csv", "json", "txt"], key=f"qc_up_{kind}",
        on_change=_uploaded, args=(kind,), max_upload_size=most,
    )  # fmt: skip
    file = brought(kind)
    if file and file.fault:
        box.error(plain(file.fault), icon=":material/error:")
    elif file:
        box.caption(f":material/check: {plain(file.name)}: {plain(file.said)}")
    elif kind != "examples":
        box.caption(plain('Lines like {"id": "a1", "output": "text"}, with tool_calls where the model calls tools.'))


def _uploaded(kind: str) -> None:
    uploaded = st.session_state.get(f"qc_up_{kind}")
    if uploaded is not None:  # None also when the page was left, and what was brought stays
        bring(kind, uploaded.name, uploaded.getvalue())


def _endpoint(side: str, endpoints: tuple[str, ...] | None) -> dict[str, str]:
    """Address and model of a side that is asked; its key is the environment's."""
    if endpoints is None:
        url = st.text_input(
            "Address", key=f"qc_{side}", placeholder="http://localhost:8000/v1", persist_state="session", max_chars=300,
            help="Of an OpenAI-compatible endpoint: vLLM, SGLang, llama-server, a gateway.",
        )  # fmt: skip
    else:
        url = st.selectbox("Address", endpoints, key=f"qc_{side}", persist_state="session") or ""
    model = st.text_input(
        "Model", key=f"qc_{side}_model", placeholder="name that the endpoint knows", persist_state="session",
        max_chars=200,
    )  # fmt: skip
    have = "is set" if os.environ.get(KEYS[side]) else "is not set, so none is sent"
    st.caption(plain(f"Key: from the environment of this server only; {KEYS[side]} {have}."))
    url = url.strip()
    return {side: url if "://" in url or not url else f"http://{url}", f"{side}_model": model.strip()}


def _settings(live: bool, endpoints: tuple[str, ...] | None, open_to_all: bool) -> dict[str, Any]:
    given: dict[str, Any] = {}
    with st.expander("How they are scored and asked", icon=":material/tune:"):
        row = st.columns(3)
        given["tolerance_points"] = row[0].number_input(
            "Drop that you accept, points", 0.1, 50.0, DEFAULTS.tolerance_points, 0.5, key="qc_tolerance",
            help="Holds means: a larger drop of the pass rate is excluded.", persist_state="session",
        )  # fmt: skip
        scorer = row[1].selectbox(
            "Scorer of examples that name none", [BY_FIELDS, *(kind.value for kind in ScorerKind)], key="qc_scorer",
            persist_state="session",
        )  # fmt: skip
        given["scorer"] = "" if scorer == BY_FIELDS else scorer
        if not open_to_all:
            given["run_tests"] = row[2].checkbox(
                "Run the answers' code", key="qc_tests", persist_state="session",
                help="Allows the scorer unit_test, which runs what the models wrote, with your rights and limits "
                "on time, memory and files. That is no sandbox.",
            )  # fmt: skip
        if live:
            given |= _asking()
        if endpoints is None or endpoints:
            st.caption("Only for examples with the scorer judge: a model that compares both answers in both orders.")
            given |= (
                _endpoint("judge", endpoints)
                if st.toggle("A model judges", key="qc_judges", persist_state="session")
                else {}
            )
    return given


def _asking() -> dict[str, Any]:
    row = st.columns(5)
    keep: dict[str, Any] = {"persist_state": "session"}
    return {
        "repeats": row[0].number_input("Answers per example", 1, 20, DEFAULTS.repeats, 1, key="qc_repeats", **keep),
        "temperature": row[1].number_input(
            "Temperature", 0.0, 2.0, DEFAULTS.temperature, 0.1, key="qc_temperature", help="0 is greedy", **keep
        ),
        "max_tokens": row[2].number_input(
            "Longest answer, tokens", 1, 1_000_000, DEFAULTS.max_tokens, 256, key="qc_max_tokens", **keep
        ),
        "concurrency": row[3].number_input(
            "Requests at once", 1, VISITOR_AT_ONCE, DEFAULTS.concurrency, 1, key="qc_concurrency", **keep
        ),
        "timeout_s": row[4].number_input("Timeout, s", 1.0, 3600.0, DEFAULTS.timeout_s, 10.0, key="qc_timeout", **keep),
    }


def _checked(given: dict[str, Any]) -> Settings:
    return Settings.model_validate(given)


def _missing(given: dict[str, Any], files: list[str]) -> str:
    """The first thing that is still to be given, in words."""
    for kind in ("examples", *files):
        file = brought(kind)
        if file is None:
            return f"{KINDS[kind].lower()}: no file yet"
        if file.fault:
            return f"{KINDS[kind].lower()}: the file has a fault"
    for side in ("baseline", "candidate", "judge"):
        if side in given and not given[side]:
            return f"{side}: no address yet"
        if side in given and not given[f"{side}_model"]:
            return f"{side}: no model yet"
    return ""
