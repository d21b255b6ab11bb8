"""The form of the Fine-tuning page: a run, its widgets and its address are three views of it, as in `state`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import streamlit as st

from defaults import first_scenario
from fields import Field, Fold, limits, meaning
from library import own_library
from links import MAX_LINK, MAX_VALUE, VERSION, Form, Names, known_name
from planner.catalog import finetune as catalog
from planner.catalog.finetune_runs import run_of
from planner.catalog.values import shown
from planner.errors import BadValue, PlannerError
from planner.estimate import Library
from planner.finetuning import estimate_finetune
from planner.specs.finetune import Checkpointing, FinetuneScenario, Method, Precision, Sharding
from sidebar import with_current
from state import DROPPED, FORM, PAGE, arrived, names_of
from words import gpu_choices, gpu_label, model_choices, model_label

RUN, WRITTEN, REFUSED = "training", "training_written", "training_refused"
FIRST = FinetuneScenario(model="meta-llama/Meta-Llama-3.1-8B", gpu="rtx4090", n_gpus=1, method="qlora", seq_len=4096)
NAMES = ("model", "gpu", "weight_format")  # looked up in the catalogue, never opened as a path
METHODS = {"full": "Full", "lora": "LoRA", "qlora": "QLoRA"}
TARGETS = ("all-linear", "attention", "mlp", "attention,mlp", "q_proj,v_proj")
BASES = ("bnb-nf4-dq", "bnb-nf4", "bnb-int8", "gptq-int4-g128", "awq-int4-g128", "hqq-4bit-g64")
CHOICES: dict[str, tuple[str, ...]] = {
    "sharding": get_args(Sharding),
    "precision": get_args(Precision),
    "gradient_checkpointing": get_args(Checkpointing),
    "framework": tuple(item.id for item in catalog.constants().frameworks),
    "optimizer": tuple(item.id for item in catalog.constants().optimizers),
    "loss": tuple(item.id for item in catalog.constants().losses),
    "lora_targets": TARGETS,
    "weight_format": BASES,
}
SWITCHES = ("flash_attention", "compile", "optimizer_in_backward", "offload_optimizer", "train_embeddings")
FOLDS = (
    Fold(
        "One step",
        (
            Field("grad_accum", "Micro-batches of one step", 1),
            Field("optimizer", "Optimizer"),
            Field("gradient_checkpointing", "Gradient checkpointing"),
            Field("precision", "Precision of what is trained"),
            Field("loss", "Loss"),
            Field("flash_attention", "Flash attention"),
            Field("compile", "torch.compile"),
            Field("optimizer_in_backward", "Optimizer in the backward pass"),
        ),
    ),
    Fold("Several GPUs", (Field("sharding", "Sharding"), Field("offload_optimizer", "Optimizer on the host"))),
    Fold(
        "Framework and card",
        (
            Field("framework", "Framework"),
            Field("framework_version", "Its version"),
            Field("reserved_gib", "Memory held by others, GiB", 0.5),
            Field("device_gib", "Card memory, GiB", 0.5),
        ),
    ),
)
MAIN = (
    "model", "gpu", "n_gpus", "method", "weight_format", "lora_rank", "lora_targets", "train_embeddings", "seq_len",
    "batch_size",
)  # fmt: skip
COLUMNS = (*MAIN, *(field.column for fold in FOLDS for field in fold.fields))
ADAPTERS = ("lora_rank", "lora_targets", "train_embeddings")


class Read(NamedTuple):
    """What was read from a link, and a line for everything in it that could not be used."""

    run: FinetuneScenario
    dropped: tuple[str, ...]


def key(column: str) -> str:
    """Session key of the widget of a column."""
    return f"t_{column}"


def query_of(run: FinetuneScenario) -> dict[str, list[str]]:
    """The parameters of a run."""
    values = ((name, getattr(run, name)) for name in COLUMNS)
    given = {name: value for name, value in values if value is not None}
    texts = {name: str(value).lower() if isinstance(value, bool) else f"{value}" for name, value in given.items()}
    return {"v": [VERSION]} | {name: [text] for name, text in texts.items()}


def read(query: Mapping[str, list[str]], names: Names) -> Read:
    """A run from the parameters of a link; what is wrong is left out and named."""
    if sum(len(name) + sum(map(len, values)) for name, values in query.items()) > MAX_LINK:
        return Read(FIRST, (f"the link is longer than {MAX_LINK:,} characters: nothing of it was read",))
    dropped: list[str] = []
    found: dict[str, Any] = {}
    for name, texts in query.items():
        try:
            if name == "v":
                if texts[-1] != VERSION:
                    raise BadValue(f"v={shown(texts[-1])}: this page reads version {VERSION} of links")
                continue
            found |= checked(name, texts[-1], names)
        except PlannerError as error:
            dropped.append(str(error))
    start = FIRST.model_dump(include={"model", "gpu"} if found else None)
    return Read(_with_method(FinetuneScenario(**(start | found))), tuple(dropped))


def _with_method(run: FinetuneScenario) -> FinetuneScenario:
    """The method that a blank one stands for: the page always shows one as chosen."""
    usual = run.method or estimate_finetune(run).rows()[0]["method"]
    return run.model_copy(update={"method": usual or "lora"})


def checked(column: str, text: str, names: Names) -> dict[str, Any]:
    """One checked value by its column. Raises PlannerError that names it."""
    if column not in COLUMNS:
        raise BadValue(f"{shown(column)} is no setting of this page")
    if len(text) > MAX_VALUE:
        raise BadValue(f"{column} is longer than {MAX_VALUE} characters")
    value = getattr(run_of({column: text}), column)
    if value is not None and column in NAMES:
        value = known_name(column, value, names)
    return {column: value}


def start() -> FinetuneScenario:
    """The run of this visit, settled; widgets are seeded with it and the address says it."""
    state = st.session_state
    query = {name: st.query_params.get_all(name) for name in st.query_params}
    fresh = PAGE not in state  # else the address is another page's still
    moved = arrived("finetuning")
    names = names_of(own_library())
    if RUN not in state:
        state[RUN], state[DROPPED] = read(query, names) if fresh else Read(_planned(), ())
    elif not moved:
        edited = _edited(state[RUN], names)
        if edited != state[RUN]:
            state[RUN], state[DROPPED] = edited, ()
        elif query != state[WRITTEN]:
            state[RUN], state[DROPPED] = read(query, names)
    run: FinetuneScenario = state[RUN]
    for name in COLUMNS:
        if moved or state.get(key(name)) != getattr(run, name):
            state[key(name)] = getattr(run, name)
    wanted = query_of(run)
    if query != wanted and (query or run != FIRST):
        st.query_params.from_dict(wanted)
        query = wanted
    state[WRITTEN] = query
    return run


def _planned() -> FinetuneScenario:
    """The model on the GPUs that were planned for on another page; a newcomer's run where these cannot train it."""
    form: Form | None = st.session_state.get(FORM)
    if form is None or form.scenario == first_scenario():
        return FIRST
    s = form.scenario
    run = FIRST.model_copy(update={"model": s.model, "gpu": s.gpu, "n_gpus": s.n_gpus or 1})
    return FIRST if estimate_finetune(run, own_library()).rows()[0]["error"] else run


def _edited(run: FinetuneScenario, names: Names) -> FinetuneScenario:
    """The run as the widgets have it; a name that nobody knows is refused and named."""
    state = st.session_state
    update: dict[str, Any] = {}
    for name in COLUMNS:
        value = None if state.get(key(name)) == "" else state.get(key(name), getattr(run, name))
        if value != getattr(run, name):
            try:
                update |= {name: None} if value is None else checked(name, str(value), names)
            except PlannerError as error:
                state[REFUSED] = str(error)
    if update.get("method") == "full":
        update |= dict.fromkeys((*ADAPTERS, "weight_format"))
    elif "method" in update:
        update["weight_format"] = None
    return run.model_copy(update=update)


def apply(update: Mapping[str, Any]) -> None:
    """For callbacks: set columns of the run."""
    run = st.session_state[RUN].model_copy(update=dict(update))
    st.session_state[RUN] = run
    for name in COLUMNS:
        st.session_state[key(name)] = getattr(run, name)


# The side bar.


def sidebar(run: FinetuneScenario, resolved: Mapping[str, Any], library: Library) -> None:
    """The inputs; blank ones show what they stand for."""
    st.selectbox(
        "Model", with_current(model_choices(), run.model, library.models), format_func=model_label, key=key("model"),
        accept_new_options=True, help="Type to search, or enter a repository's name.",
    )  # fmt: skip
    row = st.container(horizontal=True, wrap=False)
    row.selectbox(
        "GPU", with_current(gpu_choices(), run.gpu, library.gpus), key=key("gpu"), accept_new_options=True,
        format_func=lambda name: gpu_label(name, library), help="Type to search.",
    )  # fmt: skip
    _number(row, Field("n_gpus", "Count", 1), resolved, width=92)
    st.segmented_control(
        "Method", get_args(Method), format_func=METHODS.__getitem__, key=key("method"), required=True,
        help=meaning("method", FinetuneScenario), width="stretch",
    )  # fmt: skip
    if resolved["method"] == "qlora":
        _input(Field("weight_format", "Frozen base"), resolved)
    if resolved["method"] != "full":
        row = st.container(horizontal=True, wrap=False)
        _number(row, Field("lora_rank", "Rank", 8), resolved, width=92)
        _choice(row, Field("lora_targets", "Adapters on"), resolved, accept_new_options=True)
        _input(Field("train_embeddings", "Train embedding and head too"), resolved)
    row = st.container(horizontal=True, wrap=False)
    _number(row, Field("seq_len", "Sequence, tokens", 512), resolved)
    _number(row, Field("batch_size", "Micro-batch", 1), resolved)
    for fold in FOLDS:
        values = sum(getattr(run, field.column) is not None for field in fold.fields)
        with st.expander(f"{fold.title}{f' · {values} set' if values else ''}", key=f"tfold_{fold.title}"):
            for field in fold.fields:
                _input(field, resolved)


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value}"


def _default(resolved: Mapping[str, Any], column: str) -> str:
    """What a blank column stands for."""
    value = resolved.get(column)
    return "default" if value is None else f"default: {_word(value)}"


def _number(place: Any, field: Field, resolved: Mapping[str, Any], **more: Any) -> None:
    least, most = limits(field.column, isinstance(field.step, int), FinetuneScenario)
    place.number_input(
        field.label, least, most, value=None, step=field.step, key=key(field.column),
        help=meaning(field.column, FinetuneScenario), placeholder=_default(resolved, field.column), **more,
    )  # fmt: skip


def _choice(place: Any, field: Field, resolved: Mapping[str, Any], **more: Any) -> None:
    column = field.column
    values: list[Any] = [True, False] if column in SWITCHES else list(CHOICES[column])
    current = st.session_state.get(key(column))
    place.selectbox(
        field.label, values if current is None or current in values else [current, *values], index=None,
        key=key(column), format_func=_word, help=meaning(column, FinetuneScenario),
        placeholder=_default(resolved, column), **more,
    )  # fmt: skip


def _input(field: Field, resolved: Mapping[str, Any]) -> None:
    if field.step is not None:
        _number(st, field, resolved)
    elif field.column in CHOICES or field.column in SWITCHES:
        _choice(st, field, resolved)
    else:
        st.text_input(
            field.label, key=key(field.column), max_chars=40, help=meaning(field.column, FinetuneScenario),
            placeholder="newest known",
        )  # fmt: skip
