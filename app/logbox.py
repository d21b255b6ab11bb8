"""An engine's start-up log beside the estimate: what it prints against what was predicted, differences first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from answers import LAYOUT
from fields import COLUMNS, MAIN
from links import Form, known_name
from planner import explain
from planner.catalog.logs import LogTerms, read_log
from planner.errors import PlannerError
from planner.estimate import Library
from planner.estimate.columns import EstimateRow
from planner.estimate.logs import ComparedLog, ComparedTerm, compare, scenario_of_log
from planner.specs.scenario import Scenario
from state import apply, names_of
from words import plain

MOST_CHARACTERS = 200_000
UPLOAD_MB = 1
WHOLE_FROM = 1000  # from which a figure of a log is a count
NAMES = ("model", "gpu", "engine", "weight_format", "kv_format")
LOAD = frozenset(
    "concurrency input_tokens output_tokens users think_time_s turns request_rate_per_s peak_to_mean "
    "shared_prefix_tokens cached_input_fraction input_tokens_p95 output_tokens_p95 ttft_slo_ms tpot_slo_ms e2e_slo_ms "
    "slo_percentile usd_per_gpu_hour".split()
)  # what no log states: it stays as the page has it
BARE = frozenset(("engine", "engine_version", "max_model_len"))  # all that a few lines out of a log say of a deployment


class Beside(NamedTuple):
    """A log beside an estimate, and what of the scenario is the page's because the log does not say it."""

    found: ComparedLog
    scenario: Scenario
    notes: tuple[str, ...]


def show(row: EstimateRow, form: Form, library: Library) -> None:
    """The predicted lines, a box for the log, and both side by side."""
    with st.expander("Compare with your engine's start-up log", key="logbox", on_change="rerun") as box:
        if not box.open:
            return
        _predicted(row)
        text = st.text_area(
            "Paste the start-up log of vLLM, SGLang, TensorRT-LLM or llama.cpp", key="log_text", height=140,
            max_chars=MOST_CHARACTERS, placeholder="INFO ... Model loading took 14.9 GiB ...",
        )  # fmt: skip
        file = st.file_uploader(
            "Or upload it", type=["log", "txt", "out"], key="log_file", max_upload_size=UPLOAD_MB,
            help="Text, from the start to the line of the KV cache. It is read and not kept.",
        )  # fmt: skip
        data: str | bytes = file.getvalue() if file else text or ""
        if data:
            try:
                laid = form.scenario.model_copy(update={name: row[name] for name in LAYOUT})
                _compared(beside(data, form._replace(scenario=laid), library))
            except PlannerError as error:
                st.error(plain(error), title="This log cannot be used", icon=":material/error:")


def _predicted(row: EstimateRow) -> None:
    lines = explain.log_lines(row)
    if not lines:
        st.caption(f"{plain(explain.engine_name(row['engine']))} prints none of these figures.")
        return
    st.caption("What the log should print by this estimate, on the GPU that holds most; N is not predicted.")
    st.code("\n".join(line.text for line in lines), language=None, wrap_lines=True)


def beside(data: str | bytes, form: Form, library: Library) -> Beside:
    """The log beside the estimate of what it states. Raises PlannerError with one line."""
    log, notes = _known(read_log(data), library)
    given: dict[str, Any] = {}
    if set(log.settings) <= BARE and log.settings.get("engine", form.scenario.engine) == form.scenario.engine:
        s = form.scenario
        given = {name: value for name in COLUMNS if name not in LOAD and (value := getattr(s, name)) is not None}
        notes = (*notes, "The log states no settings: it is held against the deployment of this page.")
    elif "model" not in log.settings:
        given["model"] = form.scenario.model
        notes = (*notes, "The log names no model of the catalogue: the page's is used. Choose yours at the left.")
    try:
        scenario = scenario_of_log(log, given)
    except PlannerError:
        given["gpu"] = form.scenario.gpu
        notes = (*notes, "The log does not say which GPU it is: the page's is used. Choose yours at the left.")
        scenario = scenario_of_log(log, given)
    return Beside(compare(log, scenario, library), scenario, notes)


def _known(log: LogTerms, library: Library) -> tuple[LogTerms, tuple[str, ...]]:
    """The log with names of the catalogue only; a name out of a log is never opened as a path."""
    settings, notes = dict(log.settings), []
    for column in NAMES:
        if column in settings:
            try:
                settings[column] = known_name(column, str(settings[column]), names_of(library))
            except PlannerError as error:
                del settings[column]
                notes.append(str(error))
    return log._replace(settings=settings), tuple(notes)


def _compared(found: Beside) -> None:
    """Terms by how far they are apart, and a button that takes the log's settings."""
    answer, log = found.found.answer, found.found.log
    for note in found.notes:
        st.caption(plain(note))
    if log.fault:
        verdict = "does not start either" if not answer["starts"] else "starts"
        body = f"Line {log.fault.number}: {log.fault.text}. By the estimate it {verdict}."
        st.warning(plain(body), title="The engine did not start", icon=":material/cancel:")
    st.markdown(f"**{plain(explain.deployment(dict(answer)))}**, as the log states it")
    terms = sorted(found.found.terms, key=lambda term: -abs(term.error or 0))
    if terms:
        st.dataframe(_table(terms), hide_index=True, height="content", column_config=FORMATS, alt=_words(terms))
    update = settings_of(found)
    beyond = sorted(set(log.settings) - set(COLUMNS))
    if beyond:
        st.caption(f"The page has no field for {plain(', '.join(beyond))}; the comparison above uses it.")
    st.button("Use these settings", key="log_use", on_click=apply, args=(update,), icon=":material/input:")


FORMATS = {
    "Predicted": st.column_config.NumberColumn(format="localized"),
    "In the log": st.column_config.NumberColumn(format="localized"),
    "Difference, %": st.column_config.NumberColumn(format="%.1f"),
    "Line": st.column_config.NumberColumn(format="%d"),
}


def _table(terms: Sequence[ComparedTerm]) -> pd.DataFrame:
    lines = [
        {
            "Term": term.meaning,
            "Unit": "GiB" if term.term.endswith("_gib") else "",
            "Predicted": _readable(term.predicted),
            "In the log": _readable(term.measured),
            "Difference, %": None if term.error is None else round(100 * term.error, 1) + 0.0,
            "Line": term.line.number,
            "Log": term.line.text,
        }
        for term in terms
    ]
    return pd.DataFrame(lines)


def _readable(value: float) -> float:
    """Sizes and ratios to two decimals, counts whole."""
    return round(value, 0 if value >= WHOLE_FROM else 2)


def _words(terms: Sequence[ComparedTerm]) -> str:
    first = terms[0]
    figures = f"{first.predicted:.4g} predicted, {first.measured:.4g} in the log"
    return f"{len(terms)} terms, the largest difference first: {first.meaning}, {figures}"


def settings_of(found: Beside) -> dict[str, Any]:
    """What the page is set to by the log: its deployment; the load stays the page's."""
    answer = found.found.answer
    update = {name: getattr(found.scenario, name) for name in COLUMNS if name not in LOAD}
    return update | {name: answer[name] for name in MAIN if name not in LOAD}
