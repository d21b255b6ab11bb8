"""One form: the session's widgets, the address and the scenario are three views of it.

The form of the last run stands in the session. A run reads what the widgets say, settles what follows from a
change (another class of GPU has other defaults), and only then are widgets made and the address written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import streamlit as st

from defaults import (
    BY_CLASS,
    FIRST_GPUS,
    LOAD,
    GpuClass,
    default_format,
    elsewhere,
    first_scenario,
    gpu_class,
    kv_choices,
    kv_default,
    level,
)
from fields import COLUMNS, HOST_MEMORY, MAIN
from library import own_library, released_format, usual_columns
from links import Form, Link, Names, column_value, query_of, read
from planner import explain
from planner.catalog.models import key_of
from planner.errors import PlannerError
from planner.estimate import Library
from planner.estimate.defaults import own_format
from planner.search.limits import check_lengths
from planner.specs.formats import Level
from planner.specs.model import Task
from planner.specs.scenario import Scenario

FORM, DROPPED, PAGE, WRITTEN, SHOWN, MADE = "form", "dropped", "page", "written", "unfolded", "slider_steps"
OF_HARDWARE = ("gpu", "n_gpus", HOST_MEMORY.column)  # inputs that the door of a load does not show
NO_LIMIT: dict[str, Any] = {"concurrency": None}  # on requests at once
TOLD, REFUSED = "told", "refused_edit"  # what an edit brought with it, and why one was not taken
STEPS = {
    "concurrency": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096),
    "input_tokens": (0, 128, 256, 512, 1000, 2000, 4000, 7168, 16_000, 32_000, 64_000, 128_000, 256_000, 1_000_000),
    "output_tokens": (0, 1, 64, 128, 250, 500, 1000, 1024, 2000, 4000, 8000, 16_000, 32_000, 64_000),
}


def key(column: str) -> str:
    """Session key of the widget of a column."""
    return f"f_{column}"


def slider_key(column: str) -> str:
    """Session key of the slider beside an exact field."""
    return f"s_{column}"


def start(page: str) -> Form:
    """The form of this run, settled; widgets are seeded with it and the address says it."""
    state = st.session_state
    query = {name: st.query_params.get_all(name) for name in st.query_params}
    anew: Collection[str] = ()
    if arrived(page):  # the browser makes all inputs anew, and what widgets of another page hold says nothing here
        anew = COLUMNS
        if FORM not in state:
            _open(_link(query))
    else:
        edited = _edited(state[FORM])
        if edited.door != state[FORM].door:
            anew = OF_HARDWARE
        if edited != state[FORM]:
            _settle(edited)
        elif query != state[WRITTEN]:
            _open(_link(query))
    form: Form = state[FORM]
    _seed(form, anew)
    _publish(form, query)
    return form


def arrived(page: str) -> bool:
    """Note which page runs; whether it is another one than in the last run."""
    moved = st.session_state.get(PAGE) != page
    st.session_state[PAGE] = page
    return bool(moved)


def change(edit: Callable[[Form], Form]) -> None:
    """For callbacks: the form becomes what `edit` makes of it."""
    form = edit(st.session_state[FORM])
    st.session_state[FORM] = form
    st.session_state[DROPPED] = ()
    _seed(form)


def apply(update: dict[str, Any]) -> None:
    """For callbacks: set columns of the scenario."""
    change(lambda form: form._replace(scenario=form.scenario.model_copy(update=update)))


def slid(column: str) -> None:
    """For callbacks: the slider moved, the exact field follows."""
    st.session_state[key(column)] = st.session_state[slider_key(column)]


def steps(column: str, scenario: Scenario) -> list[int]:
    """The slider's steps, the scenario's own value among them."""
    return sorted({*STEPS[column], load_value(column, scenario)})


def load_value(column: str, scenario: Scenario) -> int:
    """What the slider and the box of a column of the load show."""
    value = getattr(scenario, column)
    return STEPS[column][0] if value is None else value


def settled(before: Scenario, after: Scenario, library: Library) -> tuple[Scenario, str]:
    """What follows from an edit, and a sentence that says so.

    Another class of GPU replaces values that were the old class's defaults; another model or engine replaces
    formats that it does not have.
    """
    old, new = library.gpu(before.gpu or ""), library.gpu(after.gpu or "")
    update: dict[str, Any] = {}
    told = ""
    if gpu_class(old) is not gpu_class(new):
        was, usual_now = BY_CLASS[gpu_class(old)], usual_columns(library, after.model or "", new)
        update = {name: usual_now[name] for name in LOAD if getattr(after, name) == getattr(was, name)}
        if before.engine == was.engine and before.engine == after.engine:
            update |= {name: usual_now[name] for name in ("engine", "weight_format", "kv_format")}
        if gpu_class(new) is GpuClass.DESK and after.n_gpus == before.n_gpus == FIRST_GPUS and not after.tp:
            update["n_gpus"] = 1
        told = f"Filled in as is usual on this kind of GPU ({gpu_class(new)}): {filled_in(update)}." if update else ""
    after = after.model_copy(update=update)
    if engine := _engine(before, after, library):
        after = after.model_copy(update={"engine": engine})
        told = f"This format runs in {explain.engine_name(engine)}, which is the engine now."
    limit = _limit(before, after, library)
    if limit == NO_LIMIT:
        told = f"{told} {_open_load(after)}".lstrip()
    lengths = _lengths(before, after, library)
    if lengths.get("output_tokens") == 0 and (after.output_tokens or after.tpot_slo_ms):
        told = f"{told} This model writes no tokens: no answer length, no time between tokens.".lstrip()
    return after.model_copy(update=_formats(before, after, library) | lengths | limit), told


def _engine(before: Scenario, after: Scenario, library: Library) -> str | None:
    """The engine of a format that was chosen, or came with a model, and that the one before does not run."""
    if before.model != after.model and (released_format(library, after.model or "") or "").startswith("gguf"):
        return "llama.cpp" if after.engine != "llama.cpp" else None
    if before.weight_format == after.weight_format or before.engine != after.engine or before.gpu != after.gpu:
        return None
    return elsewhere(after.engine or "vllm", library.gpu(after.gpu or "")).get(after.weight_format or "")


def _limit(before: Scenario, after: Scenario, library: Library) -> dict[str, Any]:
    """Users or a rate say the load themselves: what was asked for at once until then is no limit of theirs.

    Kept, it would cut the load off without a word. Without users and rate the usual load returns.
    """
    opened, was_open = (s.users is not None or s.request_rate_per_s is not None for s in (after, before))
    if opened and not was_open and after.concurrency == before.concurrency:
        return NO_LIMIT
    if not opened and after.concurrency is None:
        return {"concurrency": BY_CLASS[gpu_class(library.gpu(after.gpu or ""))].concurrency}
    return {}


def _open_load(scenario: Scenario) -> str:
    """What a load of users or of a rate means, when it takes the place of requests at once."""
    if scenario.users is None or scenario.think_time_s:
        return "The load is now counted in users or requests per second, without a limit on requests at once."
    return (
        "The load is now counted in users, and each asks again as soon as the last answer ends. People read and type "
        "in between: enter their think time, and fewer requests run at once."
    )


def filled_in(update: dict[str, Any]) -> str:
    """The usual settings in words."""
    words = {
        "n_gpus": "{} GPU".format,
        "engine": explain.engine_name,
        "weight_format": explain.format_name,
        "kv_format": "KV cache {}".format,
        "concurrency": "{:,} at once".format,
        "input_tokens": "prompts of {:,} tokens".format,
        "output_tokens": "answers of {:,}".format,
    }
    return ", ".join(say(update[name]) for name, say in words.items() if name in update)


def _lengths(before: Scenario, after: Scenario, library: Library) -> dict[str, Any]:
    """An encoder writes nothing and reads no more than it can; back at a generating model the usual lengths return."""
    model = library.model(after.model or "")
    generates, generated = (library.model(s.model or "").task is Task.GENERATE for s in (after, before))
    if generates and generated:
        return {}
    if generates:
        found = usual_columns(library, after.model or "", library.gpu(after.gpu or ""))
        return {name: found[name] for name in ("input_tokens", "output_tokens")}
    most = min(after.input_tokens or model.max_position, model.max_position)
    return {"output_tokens": 0, "input_tokens": most, "tpot_slo_ms": None}


def _formats(before: Scenario, after: Scenario, library: Library) -> dict[str, Any]:
    """Formats that model, engine and GPU leave no choice about."""
    gpu, engine = library.gpu(after.gpu or ""), after.engine or "vllm"
    own_before = released_format(library, before.model or "")
    update: dict[str, Any] = {}
    format_id = after.weight_format
    other_model = before.model != after.model
    if format_id and (
        (before.engine != engine and level(format_id, engine, gpu) is Level.UNSUPPORTED)
        or (before.gpu != after.gpu and level(format_id, engine, gpu) is Level.UNSUPPORTED)
        or (other_model and (released_format(library, after.model or "") or format_id == own_before))
    ):
        update["weight_format"] = default_format(released_format(library, after.model or ""), engine, gpu)
    if after.kv_format and after.kv_format not in kv_choices(engine):
        model = library.model(after.model or "")
        weights = update.get("weight_format", format_id) or own_format(model)
        update["kv_format"] = kv_default(model, weights, engine, gpu)
    return update


def _open(link: Link) -> None:
    st.session_state[FORM] = link.form
    st.session_state[DROPPED] = link.dropped
    st.session_state[WRITTEN] = None
    st.session_state[SHOWN] = []


def _link(query: dict[str, list[str]]) -> Link:
    fallback = Form("hardware", first_scenario())
    if not query:
        return Link(fallback, ())
    library = own_library()
    link = read(query, fallback, names_of(library))
    scenario, dropped = filled(link.form.scenario, library), link.dropped
    try:
        check_lengths(scenario)
    except PlannerError as error:
        scenario, dropped = scenario.model_copy(update={"input_tokens": 1}), (*dropped, str(error))
    return Link(link.form._replace(scenario=scenario), dropped)


def names_of(library: Library) -> Names:
    """Names that links and inputs may use beyond the catalogue's."""
    return Names(frozenset(library.models), frozenset(library.gpus))


def filled(scenario: Scenario, library: Library) -> Scenario:
    """Blank main columns as is usual for the model on this GPU, so that every widget shows what it stands for."""
    engine = scenario.engine or ("llama.cpp" if (scenario.weight_format or "").startswith("gguf") else None)
    found = usual_columns(library, scenario.model or "", library.gpu(scenario.gpu or ""), engine)
    blank = {name: value for name, value in found.items() if getattr(scenario, name) is None}
    if scenario.users is not None or scenario.request_rate_per_s is not None:
        blank.pop("concurrency", None)
    return scenario.model_copy(update=blank | ({} if scenario.n_gpus or scenario.tp else {"n_gpus": 1}))


def _edited(form: Form) -> Form:
    """The form as the widgets that are on the page have it."""
    state = st.session_state
    seen = [name for name in (*MAIN, *state.get(SHOWN, ())) if key(name) in state]
    values = {name: _blank_is_none(state[key(name)]) for name in seen}
    return form._replace(scenario=form.scenario.model_copy(update=values), door=state.get("door") or form.door)


def _blank_is_none(value: Any) -> Any:
    return None if value == "" else value


def _settle(edited: Form) -> None:
    state = st.session_state
    before: Form = state[FORM]
    library, refused = own_library(), ""
    try:
        typed = {
            column: column_value(column, text or "", names_of(library))
            for column in ("model", "gpu", "engine_version")
            if (text := getattr(edited.scenario, column)) != getattr(before.scenario, column)
        }
        asked = edited.scenario.model_copy(update=typed)
        check_lengths(asked)
        scenario, told = settled(before.scenario, asked, library)
        told = " ".join(filter(None, [_taken(edited.scenario.model, asked.model), told]))
    except PlannerError as error:
        scenario, told, refused = before.scenario, "", str(error)
    state[FORM] = edited._replace(scenario=scenario)
    state[TOLD], state[REFUSED] = told, refused
    state[DROPPED] = ()


def _taken(typed: str | None, found: str | None) -> str:
    """What a name was taken for, where it stands for another one than its reader may have meant."""
    short, full = (key_of(name or "").rpartition("/")[2] for name in (typed, found))
    return "" if short == full else f"“{typed}” was taken as {found}."


def _seed(form: Form, anew: Collection[str] = ()) -> None:
    """Give every widget its value before it is made; a value that stands already is left alone.

    Those that the browser makes `anew` are given theirs in any case: keys outlive a page, what the browser holds of
    them does not, and an input without a value is sent back with its least. No others are, or what is being typed
    there would be lost.
    """
    state = st.session_state
    for name in (*MAIN, *state.get(SHOWN, ())):
        _give(name, form, name in anew)
    state[SHOWN] = []
    made, state[MADE] = state.get(MADE), {name: steps(name, form.scenario) for name in STEPS}
    for name in STEPS:
        value = load_value(name, form.scenario)
        if name in anew or state.get(slider_key(name)) != value or not made or made[name] != state[MADE][name]:
            state[slider_key(name)] = value  # also where its steps changed: the browser holds a place among them
    if anew or state.get("door") != form.door:
        state["door"] = form.door


def _give(name: str, form: Form, always: bool) -> None:
    value, widget = getattr(form.scenario, name), key(name)
    if always or widget not in st.session_state or _blank_is_none(st.session_state[widget]) != value:
        st.session_state[widget] = value


def unfold(name: str) -> None:
    """Before a folded widget is made: it has the form's value, and the next run reads it."""
    if name not in st.session_state[SHOWN]:
        _give(name, st.session_state[FORM], always=key(name) not in st.session_state)
        st.session_state[SHOWN].append(name)


def _publish(form: Form, query: dict[str, list[str]]) -> None:
    """Write the address when it says something else; a bare address stays bare until something is changed."""
    state = st.session_state
    wanted = query_of(form)
    bare = not query and form == Form("hardware", first_scenario())
    if query != wanted and not bare:
        st.query_params.from_dict(wanted)
        query = wanted
    state[WRITTEN] = query
