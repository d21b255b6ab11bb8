"""What is asked of a search, as inputs: a common load, the order, objectives, what to choose from, budgets, prices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from library import MARK
from links import Form
from planner.catalog import engines, gpus
from planner.catalog.models import model_index
from planner.catalog.presets import presets
from planner.catalog.prices import PublishedPrice, checked, prices
from planner.catalog.quality import tables
from planner.errors import PlannerError
from planner.estimate import Library
from planner.explain import engine_name, model_name
from planner.specs.wish import RankBy, Weights
from state import FORM, apply, change
from wishing import BUDGETS, FORMATS, GENERATE, MOST_GPUS, SIZES, lines, model_id, prices_of, rank_by, sizes, updated
from words import gpu_choices, gpu_label, model_label, plain

PRESET_NAMES = {
    "chat": "Chat", "rag": "RAG, shared prefix", "code": "Code assistant", "reasoning": "Reasoning", "batch": "Batch",
    "documents": "Long documents", "swarm": "Swarm of agents",
}  # fmt: skip
ORDERS = {
    RankBy.QUALITY: "Quality",
    RankBy.COST: "Cost",
    RankBy.THROUGHPUT: "Throughput",
    RankBy.LATENCY: "Latency",
    RankBy.BLEND: "Blend",
}
ENGINES = tuple(name for name in engines.engine_ids() if name != "none")
SIZE_NAMES = {
    "0-15": "up to 15 B",
    "15-40": "15 to 40 B",
    "40-200": "40 to 200 B",
    "200-3000": "above 200 B",
    "0-3000": "any size",
}
SHAPE = (
    "input_tokens_p95 output_tokens_p95 shared_prefix_tokens cached_input_fraction users request_rate_per_s "
    "think_time_s turns peak_to_mean images_per_request ttft_slo_ms tpot_slo_ms e2e_slo_ms task_family"
).split()


def widget(name: str) -> str:
    """Session key of the widget of a wish."""
    return f"w_{name}"


def _wish(name: str, text_of: Callable[[Any], str]) -> None:
    """For callbacks: the form takes over what the widget says."""
    text = text_of(st.session_state[widget(name)])
    change(lambda form: form._replace(wishes=updated(form.wishes, {name: text})))


def _column(name: str) -> None:
    """For callbacks: a column of the scenario follows its widget on this page."""
    apply({name: st.session_state[widget(name)]})


def _seed(name: str, value: Any) -> str:
    """Give a widget the form's value before it is made; its key."""
    st.session_state[widget(name)] = value
    return widget(name)


def _preset() -> None:
    """For callbacks: the load, the objectives and the order of a preset replace what was there."""
    name = st.session_state["preset"]
    if name is None:
        return
    found = presets()[name]
    load = {column: value for column, value in found.load.model_dump().items() if value is not None}
    load |= {key: value for key in SHAPE if (value := getattr(found.wish, key, None)) is not None}
    update = dict.fromkeys(SHAPE) | load
    stated, shares = found.wish.model_fields_set, found.wish.weights.model_dump().values()
    wishes = {
        "rank_by": found.wish.rank_by.value if "rank_by" in stated else "",
        "blend": lines(f"{share:g}" for share in shares) if "weights" in stated else "",
    }
    change(
        lambda form: form._replace(
            scenario=form.scenario.model_copy(update=update), wishes=updated(form.wishes, wishes)
        )
    )


def common_loads() -> None:
    """Loads to start from."""
    known = [name for name in presets() if name in PRESET_NAMES]
    st.pills(
        "Start from a common load, then change anything", known, format_func=PRESET_NAMES.__getitem__, key="preset",
        on_change=_preset,
    )  # fmt: skip
    chosen = st.session_state.get("preset")
    if chosen:
        found = presets()[chosen]
        at_once = f" {found.load.concurrency:,} at once," if found.load.concurrency else ""
        lengths = f"{found.load.input_tokens or 0:,} + {found.load.output_tokens or 0:,} tokens"
        st.caption(plain(f"{found.says[:1].upper()}{found.says[1:]}.{at_once} {lengths}."))


def order(form: Form, library: Library) -> None:
    """What answers are judged by, what comes first, and the two objectives that people have."""
    s, given = form.scenario, dict(form.wishes)
    families = {one.id: one.name for one in tables().families}
    row = st.container(horizontal=True, vertical_alignment="bottom")
    row.selectbox(
        "The task", list(families), format_func=families.__getitem__, key=_seed("task_family", s.task_family),
        on_change=_column, args=("task_family",), width=230, index=None, placeholder=tables().overall.name,
        help="What a format costs in quality depends on the task, and so does what is advised.",
    )  # fmt: skip
    for column, label, step in (
        ("tpot_slo_ms", "Each token within, ms", 5.0),
        ("ttft_slo_ms", "First within, ms", 100.0),
    ):
        row.number_input(
            label, 0.001, 1e9, step=step, format="%g", value=None, key=_seed(column, getattr(s, column)),
            on_change=_column, args=(column,), width=165, placeholder="any",
            help=f"Objective for 95 % of requests. Column: {column}",
        )  # fmt: skip
    _which_models(row, form, given, library)
    row.segmented_control(
        "What comes first", list(RankBy), format_func=ORDERS.__getitem__, required=True,
        key=_seed("rank_by", rank_by(given, form.door)), on_change=_wish, args=("rank_by", str),
    )  # fmt: skip
    if rank_by(given, form.door) is RankBy.BLEND:
        _blend(row, given)


def _which_models(row: Any, form: Form, given: dict[str, str], library: Library) -> None:
    """Models of a size, or one alone: that of the calculator, or an uploaded one."""
    now = given.get("models") or "{}-{}".format(*sizes(given, form.door))
    alone = list(dict.fromkeys(model_id(name) for name in (*library.models, form.scenario.model or "") if name))
    names = SIZE_NAMES | {name: f"only {model_name(name)}" for name in alone}
    if now not in names:
        names |= {now: f"{now.replace('-', ' to ')} B" if "models" not in given else f"{now.count(',') + 1} chosen"}
    row.selectbox(
        "Models", list(names), format_func=names.__getitem__, key=_seed("which", now), width=230, on_change=_which,
        help="By billion parameters, or which precision for one model. Any others are named under Choose from.",
    )  # fmt: skip


def _size_range(key: str) -> None:
    """For callbacks: the form takes over both ends."""
    text = "{}-{}".format(*st.session_state[key])
    change(lambda form: form._replace(wishes=updated(form.wishes, {"sizes": text})))


def _which() -> None:
    """For callbacks: a class of sizes is a range of them; else it names models."""
    text = st.session_state[widget("which")]
    by_size = text in SIZE_NAMES
    names = {"sizes": text if by_size else None, "models": None if by_size else text}
    change(lambda form: form._replace(wishes=updated(form.wishes, names)))


def _blend(place: Any, given: dict[str, str]) -> None:
    usual = Weights().model_dump()
    shares = [float(part) for part in given["blend"].split(",")] if "blend" in given else list(usual.values())
    box = place.popover("Shares of the blend", key="blend", on_change="rerun")
    if box.open:
        for name, share in zip(usual, shares, strict=True):
            box.slider(
                name.capitalize(), 0.0, 1.0, step=0.1, key=_seed(f"blend_{name}", share), on_change=_blended,
                args=(list(usual),),
            )  # fmt: skip


def _blended(names: Sequence[str]) -> None:
    shares = [st.session_state[widget(f"blend_{name}")] for name in names]
    if sum(shares):
        change(
            lambda form: form._replace(wishes=updated(form.wishes, {"blend": lines(f"{share:g}" for share in shares)}))
        )


def folds(form: Form, library: Library) -> None:
    """What to choose from, budgets and prices, folded away."""
    given = dict(form.wishes)
    columns = st.columns(2)
    chosen = sum(name in given for name in ("sizes", "models", "gpus", "formats", "engines", "small_kv"))
    with columns[0].expander("Choose from", key="fold_space", on_change="rerun") as box:
        if box.open:
            _space(form, given, library)
    _count(columns[0], chosen, box.open)
    limited = sum(budget.name in given for budget in BUDGETS)
    with columns[1].expander("Budgets", key="fold_budgets", on_change="rerun") as box:
        if box.open:
            for budget in BUDGETS:
                value = float(given[budget.name]) if budget.name in given else None
                st.number_input(
                    budget.label, 0.001, 1e12, step=budget.step, format="%g", value=None, key=_seed(budget.name, value),
                    on_change=_wish, args=(budget.name, _number), placeholder="no limit",
                )  # fmt: skip
    _count(columns[1], limited, box.open)
    with st.expander("Prices of GPUs", key="fold_prices", on_change="rerun") as box:
        if box.open:
            _prices(given, library)
    _count(st, int("prices" in given), box.open)


def _count(place: Any, count: int, is_open: bool | None) -> None:
    """Under a closed fold, how much it holds; not in its title, because a box with a new title shuts itself."""
    if count and not is_open:
        place.caption(f"{count} set here")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.12g}"


def _space(form: Form, given: dict[str, str], library: Library) -> None:
    if form.door == "load":
        st.multiselect(
            "GPUs", [*library.gpus, *gpu_choices()], key=_seed("gpus", _list(given, "gpus")), on_change=_wish,
            args=("gpus", lines), max_selections=MOST_GPUS, format_func=partial(gpu_label, library=library),
            placeholder="every GPU with a price",
        )  # fmt: skip
    ends = sizes(given, form.door)
    key = widget(
        "sizes_{}_{}".format(*ends)
    )  # a range takes its value from its argument alone, and anew where it changed
    st.select_slider("Model size, billion parameters", SIZES, ends, key=key, on_change=_size_range, args=(key,))
    st.multiselect(
        "Models", [*library.models, *model_names()], key=_seed("models", _list(given, "models")), on_change=_wish,
        args=("models", lines), format_func=model_label, placeholder="all of that size",
    )  # fmt: skip
    st.pills(
        "Weights", list(FORMATS), selection_mode="multi", key=_seed("formats", _list(given, "formats")),
        on_change=_wish, args=("formats", lines), help="None chosen: what is usual for the engine and the GPU.",
    )  # fmt: skip
    st.pills(
        "Engines", ENGINES, selection_mode="multi", key=_seed("engines", _list(given, "engines")),
        format_func=engine_name,
        on_change=_wish, args=("engines", lines), help="None chosen: vLLM, and llama.cpp on what people have at home.",
    )  # fmt: skip
    st.toggle(
        "8-bit KV cache too", key=_seed("small_kv", bool(given.get("small_kv"))), on_change=_wish,
        args=("small_kv", lambda on: "yes" if on else ""),
    )  # fmt: skip


def _list(given: dict[str, str], name: str) -> list[str]:
    return [part for part in given.get(name, "").split(",") if part]


def _prices(given: dict[str, str], library: Library) -> None:
    """The table of prices, to be overwritten: one's own, then the published ones, then GPUs without one."""
    own = prices_of(given["prices"]) if "prices" in given else {}
    known = {row.gpu: row for row in prices()}
    names = dict.fromkeys((*own, *known, *library.gpus, *gpus.gpu_ids()))
    frame = pd.DataFrame([_price_line(name, own, known.get(name), library) for name in names])
    st.caption(
        "Examples that providers published, with their date; overwrite them with what you pay. At the end stand GPUs "
        "of which no published price was found, such as cards that people own."
    )
    st.data_editor(
        frame, key="price_table", hide_index=True, height=260, on_change=_priced, args=(frame,),
        column_order=["GPU", "USD per hour", "from", "source"], disabled=["GPU", "from", "source"], column_config={
            "GPU": st.column_config.TextColumn(width=170),
            "from": st.column_config.TextColumn("From"),
            "source": st.column_config.TextColumn("Source"),
            "USD per hour": st.column_config.NumberColumn(min_value=0.001, max_value=1e5, step=0.01, format="%.2f"),
        },
    )  # fmt: skip
    if st.session_state.get("price_fault"):
        st.error(plain(st.session_state.pop("price_fault")), icon=":material/error:")


def _price_line(name: str, own: dict[str, float], known: PublishedPrice | None, library: Library) -> dict[str, object]:
    published = f"{known.provider}, {known.date}" if known else "no price found: enter yours"
    return {
        "gpu": name,
        "GPU": library.gpu(name).name.removeprefix(MARK),
        "USD per hour": own.get(name, known.usd_per_hour if known else None),
        "from": "yours" if name in own else published,
        "source": known.source if known else "",
    }


def _priced(frame: pd.DataFrame) -> None:
    """For callbacks: prices that differ from the published ones become wishes; an emptied cell takes one's own away."""
    own = prices_of(dict(st.session_state[FORM].wishes).get("prices", ""))
    try:
        for at, row in st.session_state["price_table"]["edited_rows"].items():
            name, usd = str(frame.loc[int(at), "gpu"]), row.get("USD per hour")
            own.pop(name, None)
            if usd is not None:
                own[name] = checked(float(usd), name)
    except PlannerError as error:
        st.session_state["price_fault"] = str(error)
    text = lines(f"{name}:{usd:g}" for name, usd in own.items())
    change(lambda form: form._replace(wishes=updated(form.wishes, {"prices": text})))
    st.session_state.pop("price_table", None)


def model_names() -> list[str]:
    """Models that write."""
    return [entry.id for entry in model_index() if entry.task == GENERATE]
