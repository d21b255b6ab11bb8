"""The side bar: everything that makes a scenario, the usual first, the rest folded away."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from access import is_local
from commandbox import read as read_command
from custom import custom_gpu
from defaults import elsewhere, kv_choices, level, offered_formats
from fields import FOLDS, HOST_MEMORY, Field, Fold, limits, meaning
from library import own_library, released_format, upload_gpu, upload_model
from links import Form
from planner.catalog import engines
from planner.catalog.commands import MAX_LENGTH
from planner.catalog.quality import tables
from planner.errors import PlannerError
from planner.estimate import Library
from planner.estimate.columns import EstimateRow
from planner.explain import engine_name, format_name
from state import FORM, PAGE, TOLD, apply, change, key, load_value, settled, slid, slider_key, steps, unfold
from wishing import updated
from words import engine_label, format_label, gpu_choices, gpu_label, model_choices, model_label, plain

UPLOAD_MB, HEADER_MB = 1, 16  # of a visitor's file; of one's own machine, where the header of a GGUF is welcome too
MOST_PASTED = 200_000  # characters of a config.json
NARROW_PX, MIDDLE_PX = 92, 116  # of inputs that stand beside a wide one
DOORS = {"hardware": "I have this hardware", "load": "I have this load"}
DOOR_HELP = "With hardware given, the page says what it holds. With a load given, it finds how many GPUs hold it."


def show_load(form: Form, library: Library) -> None:
    """The inputs of a search: the load, and the GPUs where these are given."""
    _doors()
    hardware = st.container()  # behind either door, so that what stands below keeps its place and what is typed there
    if form.door == "hardware":
        with hardware:
            _gpu(form, library)
            if not library.gpu(form.scenario.gpu or "").unified_memory:
                _input(HOST_MEMORY)
    _load(form)
    for fold in FOLDS:
        if fold.of_load:
            _fold(fold, form)
    _own()


def _doors() -> None:
    st.segmented_control(
        "Where to start", list(DOORS), format_func=DOORS.__getitem__, key="door", required=True,
        label_visibility="collapsed", help=DOOR_HELP, width="stretch",
    )  # fmt: skip


def show(form: Form, library: Library, with_door: bool = True, row: EstimateRow | None = None) -> None:
    """The inputs of a page; their values are the form's, and what is left blank shows what the row takes for it."""
    if with_door:
        _doors()
    _model(form, library)
    _gpu(form, library)
    _formats(form, library)
    _load(form)
    for fold in FOLDS:
        if not fold.engines or form.scenario.engine in fold.engines:
            _fold(fold, form, row)
    _own()


def _own() -> None:
    """A deployment as its start command says it, and models and GPUs that no catalogue has."""
    with st.expander("Your own command, model or GPU", key="own", on_change="rerun") as box:
        if box.open:
            if st.session_state[PAGE] != "recommend":
                _command()
            _uploads()
            custom_gpu()


def _model(form: Form, library: Library) -> None:
    s = form.scenario
    st.selectbox(
        "Model", with_current(model_choices(), s.model, library.models), format_func=model_label, key=key("model"),
        accept_new_options=True, help="Type to search, or enter a repository's name such as Qwen/Qwen3-32B-AWQ.",
    )  # fmt: skip


def _gpu(form: Form, library: Library) -> None:
    s = form.scenario
    row = st.container(horizontal=True, wrap=False)
    row.selectbox(
        "GPU", with_current(gpu_choices(), s.gpu, library.gpus), key=key("gpu"),
        format_func=partial(gpu_label, library=library), accept_new_options=True,
        help="Type to search; a slice is written h100-sxm:2g.20gb.",
    )  # fmt: skip
    if form.door == "hardware":
        row.number_input(
            "Count", 1, 65536, s.n_gpus or "min", step=1, key=key("n_gpus"), help=meaning("n_gpus"), width=NARROW_PX
        )


def _formats(form: Form, library: Library) -> None:
    s = form.scenario
    engine, gpu = s.engine or "vllm", library.gpu(s.gpu or "")
    row = st.container(horizontal=True, wrap=False)
    row.selectbox("Engine", engines.engine_ids(), format_func=engine_label, key=key("engine"), help=meaning("engine"))
    choices = with_current(kv_choices(engine), s.kv_format)
    row.selectbox("KV cache", choices, key=key("kv_format"), help=meaning("kv_format"), width=MIDDLE_PX)
    formats = with_current(offered_formats(engine, gpu, released_format(library, s.model or "")), s.weight_format)
    labels = {name: format_label(name, level(name, engine, gpu)) for name in formats}
    others = elsewhere(engine, gpu).items()
    labels |= {name: f"{format_name(name)} · in {engine_name(other)}" for name, other in others if name not in labels}
    st.selectbox(
        "Weights", list(labels), key=key("weight_format"), help=meaning("weight_format"),
        format_func=labels.__getitem__,
    )  # fmt: skip


def with_current(choices: tuple[str, ...], current: str | None, more: object = ()) -> list[str]:
    """The choices, uploads first, and the current one where it is none of them."""
    out = [*more, *choices]  # type: ignore[misc]
    return out if current is None or current in out else [current, *out]


def _load(form: Form) -> None:
    """The load, each number as a slider and a box.

    Both are given the form's value, though session state holds it too: an input that the browser makes anew before it
    knows of a change sends back what it was made with.
    """
    s = form.scenario
    names = {
        "concurrency": "Requests at once",
        "input_tokens": "Prompt, tokens",
        "output_tokens": "Answer, tokens",
    }
    if s.users is not None or s.request_rate_per_s is not None:
        del names["concurrency"]
        least, most = limits("concurrency", True)
        st.number_input(
            "At most at once", least, most, value=None, step=1, key=key("concurrency"), placeholder="no limit",
            help="Users or a rate say the load. A limit here makes the rest wait outside, which no figure shows.",
        )  # fmt: skip
    for column, label in names.items():
        row = st.container(horizontal=True, wrap=False, vertical_alignment="bottom")
        row.select_slider(
            label, steps(column, s), load_value(column, s), key=slider_key(column), on_change=slid, args=(column,),
            help=meaning(column), format_func=lambda n: f"{n:,}",
        )  # fmt: skip
        least, most = limits(column, True)
        row.number_input(
            f"{label}, exactly", least, most, load_value(column, s), step=1, key=key(column),
            label_visibility="collapsed", width=NARROW_PX,
        )  # fmt: skip


def _fold(fold: Fold, form: Form, row: EstimateRow | None = None) -> None:
    """A folded part; its inputs exist only while it is open, and closed it says what is set in it.

    Its title never changes: with another one the browser takes it for another box and shuts it while one types.
    """
    with st.expander(fold.title, key=f"fold_{fold.title}", on_change="rerun") as box:
        if box.open:
            for field in fold.fields:
                _input(field, form.scenario.gpu, (row or {}).get(field.column))
    given = {field.label: getattr(form.scenario, field.column) for field in fold.fields}
    said = [f"{label}: {_said(value)}" for label, value in given.items() if value is not None]
    if said and not box.open:
        st.caption(plain(" · ".join(said)))


def _said(value: Any) -> str:
    """A setting as a caption says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.12g}" if isinstance(value, int | float) else str(value)


def _input(field: Field, gpu: str | None = None, taken: Any = None) -> None:
    """An input of a column; left blank it says what the estimate has `taken` for it."""
    unfold(field.column)
    name, label = key(field.column), field.label
    blank = (
        field.blank
        if taken is None or getattr(st.session_state[FORM].scenario, field.column) is not None
        else f"default: {_said(taken)}"
    )
    if field.step is not None:
        whole = isinstance(field.step, int)
        least, most = limits(field.column, whole)
        st.number_input(
            label,
            least,
            most,
            value=None,
            step=field.step,
            format=None if whole else "%g",
            key=name,
            help=meaning(field.column),
            placeholder=blank,
        )
    elif field.column in ("enforce_eager", "prefix_caching", "flash_attention"):
        words = {True: "yes", False: "no"}
        st.selectbox(
            label, list(words), index=None, format_func=words.__getitem__, key=name, help=meaning(field.column),
            placeholder=blank,
        )  # fmt: skip
    elif field.column == "backend":
        _backend(label, own_library().gpu(gpu or "").vendor)
    elif field.column == "task_family":
        names = {one.id: one.name for one in tables().families}
        st.selectbox(
            label, list(names), index=None, format_func=names.__getitem__, key=name, help=meaning(field.column),
            placeholder=tables().overall.name,
        )  # fmt: skip
    else:
        st.text_input(label, key=name, max_chars=40, help=meaning(field.column), placeholder=blank)


def _backend(label: str, vendor: str) -> None:
    """What llama.cpp can be built for on a vendor's GPUs, its usual one first."""
    built = engines.backends("llama.cpp", vendor)
    st.selectbox(
        label, with_current(built, st.session_state.get(key("backend"))), index=None, key=key("backend"),
        help=meaning("backend"), placeholder=f"default ({built[0]})" if built else "default",
    )  # fmt: skip


def _command() -> None:
    st.text_area(
        "Paste a start command", key="paste_command", height=80, max_chars=MAX_LENGTH, on_change=_commanded,
        placeholder="vllm serve Qwen/Qwen3-32B --tensor-parallel-size 2",
        help="Of vLLM, SGLang, TensorRT-LLM or llama-server, docker run in front or not; Ctrl+Enter takes it. "
        "GPU and load stay as they are.",
    )  # fmt: skip


def _commanded() -> None:
    """For callbacks: the deployment of the pasted command becomes that of the page."""
    state = st.session_state
    state["refused"] = ""
    if text := state["paste_command"].strip():
        try:
            found = read_command(text, state[FORM].scenario, own_library())
        except PlannerError as error:
            state["refused"] = str(error)
        else:
            apply(found.update)
            state[TOLD] = found.told


def _uploads() -> None:
    st.file_uploader(
        "config.json of a model, or the header of its weights", type=["json", "gguf", "safetensors"],
        key="upload_model", max_upload_size=HEADER_MB if is_local() else UPLOAD_MB,
        on_change=_uploaded, args=("upload_model", "model", upload_model),
        help="As published with the checkpoint, or what `planner import-model --out` wrote. Of a .gguf or .safetensors "
        "file its beginning is enough: `head -c 15M model.gguf > begin.gguf`. It stays in this session.",
    )  # fmt: skip
    st.text_area(
        "Or paste a config.json", key="paste_model", height=80, max_chars=MOST_PASTED, on_change=_pasted,
        placeholder='{"architectures": [...], ...}',
    )  # fmt: skip
    st.file_uploader(
        "YAML profile of a GPU", type=["yaml", "yml"], key="upload_gpu", max_upload_size=UPLOAD_MB,
        on_change=_uploaded, args=("upload_gpu", "gpu", upload_gpu),
        help="As in hardware_profiles; it needs memory, bandwidth and one rate.",
    )  # fmt: skip
    if st.session_state.get("refused"):
        st.error(plain(st.session_state["refused"]), icon=":material/error:")


def _uploaded(widget: str, column: str, keep: Callable[[bytes, str], str]) -> None:
    """For callbacks: an uploaded file becomes the model or the GPU of the scenario, or a line says why not."""
    file: UploadedFile | None = st.session_state[widget]
    if file is not None:
        _take(file.getvalue(), file.name, column, keep)


def _pasted() -> None:
    """For callbacks: the pasted config.json becomes the model."""
    if text := st.session_state["paste_model"].strip():
        _take(text.encode(), "config.json", "model", upload_model)


def _take(data: bytes, name: str, column: str, keep: Callable[[bytes, str], str]) -> None:
    state = st.session_state
    state["refused"] = ""
    try:
        found = keep(data, name)
        if column != "model":
            apply({column: found})
            return
        before = state[FORM].scenario
        scenario, state[TOLD] = settled(before, before.model_copy(update={"model": found}), own_library())
        # a search names its models itself
        wishes = {"models": found, "sizes": None} if state[PAGE] == "recommend" else {}
        change(lambda form: form._replace(scenario=scenario, wishes=updated(form.wishes, wishes)))
    except PlannerError as error:
        state["refused"] = str(error)
