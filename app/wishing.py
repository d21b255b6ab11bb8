"""What a search is asked on the page, beyond the scenario: order, budgets, prices and what to choose from.

The form holds it as texts, as the address does; here they are checked and become a Wish and a Space.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from pydantic import ValidationError

from fields import FOLDS
from library import MARK
from planner.catalog import engines, gpus, models
from planner.catalog.prices import checked as checked_price
from planner.catalog.values import number_of, shown
from planner.errors import BadValue, PlannerError
from planner.specs.scenario import Scenario
from planner.specs.wish import RankBy, Space, Weights, Wish

Pairs = tuple[tuple[str, str], ...]

MOST_GPUS, MOST_MODELS, MOST_PRICES = 30, 60, 100
SIZES = (0, 1, 3, 7, 10, 15, 20, 30, 40, 70, 100, 200, 400, 1000, 3000)  # billion parameters
ALL_SIZES = (0, 3000)
# On given hardware the best answers; for a given load a size that many use, and what it costs counts too.
USUAL_SIZES = {"hardware": ALL_SIZES, "load": (15, 40)}
USUAL_ORDER = {"hardware": RankBy.QUALITY, "load": RankBy.BLEND}
GENERATE = "generate"
KEPT = ("concurrency", "input_tokens", "output_tokens") + tuple(
    field.column for fold in FOLDS if fold.of_load for field in fold.fields
)
HOST = ("host_memory_gib", "host_bandwidth_gb_s")
FORMATS = {  # families of formats that a search may be narrowed to
    "16 bit": ("bf16", "fp16", "gguf-f16"),
    "8 bit": ("fp8", "fp8-block128", "int8-w8a8", "gguf-q8_0"),
    "5 to 6 bit": ("gguf-q6_k", "gguf-q5_k_m"),
    "4 bit": ("awq-int4-g128", "gptq-int4-g128", "nvfp4", "mxfp4", "int4-g32", "gguf-q4_k_m"),
    "below 4 bit": ("gptq-int3-g128", "gguf-q3_k_m", "gguf-q2_k"),
}
SMALL_KV = ("bf16", "fp16", "fp8", "q8_0")


class Budget(NamedTuple):
    """A limit of a wish as the page asks for it."""

    name: str
    label: str
    step: float


BUDGETS = (
    Budget("max_gpus", "GPUs at most", 1.0),
    Budget("max_usd_per_hour", "USD an hour at most", 1.0),
    Budget("max_usd_per_month", "USD a month at most", 100.0),
    Budget("max_power_w", "Watts at most", 100.0),
    Budget("max_quality_loss_points", "Points of quality lost at most", 0.5),
    Budget("min_context_tokens", "Longest request that must fit, tokens", 1000.0),
    Budget("min_output_tokens_per_s_per_request", "Tokens/s for each user at least", 5.0),
    Budget("min_requests_per_s", "Requests/s at least", 0.5),
)
LIMITS = tuple(budget.name for budget in BUDGETS)
NAMES = (*LIMITS, "rank_by", "blend", "sizes", "models", "gpus", "formats", "engines", "small_kv", "prices")


def checked(name: str, text: str) -> str:
    """A text as it is kept. Raises PlannerError that names it."""
    if name in LIMITS:
        return _limit(name, text)
    if name not in READERS:
        raise BadValue(f"{shown(name)} is no wish of this page")
    return READERS[name](text)


def _limit(name: str, text: str) -> str:
    try:
        value = number_of(name, text)
        Wish.model_validate({name: value})
    except ValidationError as error:
        raise BadValue(f"{name}: {shown(text)}: {error.errors()[0]['msg'].lower()}") from None
    return f"{value:.12g}"


def _parts(text: str, most: int, name: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > most:
        raise BadValue(f"{name}: more than {most} of them")
    return parts


def _one_of(name: str, known: Iterable[str], most: int, text: str) -> str:
    """A list of known words. Raises BadValue for the first that is none."""
    parts, words = _parts(text, most, name), tuple(known)
    unknown = [part for part in parts if part not in words]
    if unknown or not parts:
        raise BadValue(f"{name}: {shown(unknown[0] if unknown else text)} is none of {', '.join(words)}")
    return lines(parts)


def _sizes(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    known = {str(size): size for size in SIZES}
    if least not in known or most not in known or known[least] > known[most]:
        raise BadValue(f"sizes: {shown(text)} is no range such as 7-70, billion parameters")
    return known[least], known[most]


def _weights(text: str) -> Weights:
    parts = _parts(text, len(Weights.model_fields), "blend")
    values = [number_of("blend", part) for part in parts]
    if len(values) != len(Weights.model_fields) or not all(0 <= value <= 1 for value in values) or not sum(values):
        raise BadValue(f"blend: {shown(text)} is not four shares from 0 to 1 that are not all 0")
    return Weights(**dict(zip(Weights.model_fields, values, strict=True)))


def prices_of(text: str) -> dict[str, float]:
    """Prices by GPU id from "h100-sxm:2.5,l4:0.8". Raises PlannerError for what is no price or no GPU."""
    found = {}
    for part in _parts(text, MOST_PRICES, "prices"):
        name, _, usd = part.rpartition(":")
        found[gpu_id(name)] = checked_price(number_of("prices", usd), name)
    return found


def model_id(name: str) -> str:
    """The catalogue's id of a model; an upload stands for itself. Raises UnknownName."""
    return name if name.startswith(MARK) else models.resolve(name).model.id


def gpu_id(name: str) -> str:
    """The catalogue's id of a GPU; an upload stands for itself. Raises UnknownName."""
    return name if name.startswith(MARK) else gpus.gpu(name).id


READERS: dict[str, Callable[[str], str]] = {
    "rank_by": partial(_one_of, "rank_by", RankBy, 1),
    "blend": lambda text: lines(f"{share:g}" for share in _weights(text).model_dump().values()),
    "sizes": lambda text: "{}-{}".format(*_sizes(text)),
    "models": lambda text: lines(map(model_id, _parts(text, MOST_MODELS, "models"))),
    "gpus": lambda text: lines(map(gpu_id, _parts(text, MOST_GPUS, "gpus"))),
    "formats": partial(_one_of, "formats", FORMATS, len(FORMATS)),
    "engines": partial(_one_of, "engines", engines.engine_ids(), len(engines.engine_ids())),
    "small_kv": partial(_one_of, "small_kv", ("yes",), 1),
    "prices": lambda text: lines(f"{gpu}:{usd:g}" for gpu, usd in prices_of(text).items()),
}


def wish_of(pairs: Pairs, door: str) -> Wish:
    """The wish that the texts say."""
    given = dict(pairs)
    limits = {name: float(given[name]) for name in LIMITS if name in given}
    wish: dict[str, object] = {name: int(value) if name == "max_gpus" else value for name, value in limits.items()}
    if "prices" in given:
        wish["usd_per_gpu_hour"] = prices_of(given["prices"])
    if "blend" in given:
        wish["weights"] = _weights(given["blend"])
    return Wish.model_validate(wish | {"rank_by": rank_by(given, door)})


def rank_by(given: Mapping[str, str], door: str) -> RankBy:
    """What comes first, as said or as usual behind this door."""
    return RankBy(given.get("rank_by") or USUAL_ORDER[door])


def sizes(given: Mapping[str, str], door: str) -> tuple[int, int]:
    """Range of sizes, billion parameters, as said or as usual behind this door."""
    return _sizes(given["sizes"]) if given.get("sizes") else USUAL_SIZES[door]


def space_of(pairs: Pairs, scenario: Scenario, door: str) -> Space:
    """What may be chosen: on the hardware given, or on any GPU with a price."""
    given = dict(pairs)
    formats = [name for group in given.get("formats", "").split(",") if group for name in FORMATS[group]]
    hardware = door == "hardware"
    return Space(
        models=tuple(chosen_models(given, door)),
        gpus=(scenario.gpu or "",) if hardware else tuple(filter(None, given.get("gpus", "").split(","))),
        counts=(scenario.n_gpus or 1,) if hardware else (),
        formats=tuple(formats),
        engines=tuple(filter(None, given.get("engines", "").split(","))),
        kv_formats=SMALL_KV if given.get("small_kv") else (),
    )


def chosen_models(given: Mapping[str, str], door: str) -> list[str]:
    """Models by name, else all of the catalogue that write and have a size in the range."""
    if given.get("models"):
        return given["models"].split(",")
    least, most = sizes(given, door)
    return [
        entry.id
        for entry in models.model_index()
        if entry.task == GENERATE and least * 1e9 <= entry.parameters <= most * 1e9
    ]


def load_of(scenario: Scenario, door: str) -> Scenario:
    """The load and the objectives as the page shows them, and of given hardware the memory of its computer: everything
    else is chosen by the search."""
    names = {*KEPT, *(HOST if door == "hardware" else ())}
    return Scenario(**scenario.model_dump(include=names))


def updated(pairs: Pairs, changes: Mapping[str, str | None]) -> Pairs:
    """The texts with some set anew; None and "" take one away."""
    kept = dict(pairs) | dict(changes)
    return tuple((name, text) for name in NAMES if (text := kept.get(name)))


def read_pairs(given: dict[str, str], prefix: str, uploads: Container[str], dropped: list[str]) -> Pairs:
    """Take the texts out of the parameters of a link; what cannot be used is named."""
    found: dict[str, str] = {}
    for key in [key for key in given if key.startswith(prefix)]:
        found |= _read(key.removeprefix(prefix), given.pop(key), uploads, dropped)
    return updated((), found)


def _read(name: str, text: str, uploads: Container[str], dropped: list[str]) -> dict[str, str]:
    try:
        kept = checked(name, text)
    except PlannerError as error:
        dropped.append(str(error))
        return {}
    names = [part if name != "prices" else part.rpartition(":")[0] for part in kept.split(",")]
    gone = [part for part in names if part.startswith(MARK) and part not in uploads]
    if gone:
        dropped.append(f"{name}: {shown(gone[0].removeprefix(MARK))} was uploaded in another session; upload it again")
    return {} if gone else {name: kept}


def lines(texts: Iterable[str]) -> str:
    """A list as the form keeps it."""
    return ",".join(texts)
