"""The scenario in the address: written in full, read with suspicion.

Every value that is set stands in the link, so that a link keeps its meaning when defaults change. What a link
holds and this page cannot use is dropped and named, one line each; nothing turns into a default in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from fields import COLUMNS
from planner.catalog import engines, formats, gpus, models
from planner.catalog.quality import family
from planner.catalog.values import scenario_of, shown, value_of
from planner.errors import BadValue, PlannerError, UnknownName
from planner.specs.scenario import Scenario
from wishing import Pairs, read_pairs

VERSION = "1"
WISH = "find_"  # before the names of what is searched
DOORS = ("hardware", "load")
MAX_LINK = 12_000  # characters of a whole query
MAX_VALUE = 200  # of one parameter; a pin is a query of its own
MAX_PINS = 6
WHERE = "under “Your own command, model or GPU” in the Calculator"
LOOKED_UP: Mapping[str, Callable[[str], str]] = {  # names that the catalogue has: their ids
    "engine": engines.engine_id,
    "weight_format": lambda name: formats.weight_format(name).id,
    "kv_format": lambda name: "/".join(dict.fromkeys(one.id for one in formats.kv_format(name))),
    "task_family": lambda name: family(name).id,
}
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.+: -]*(?:/[\w.+:-]+)?", re.ASCII)

Query = dict[str, list[str]]


class Form(NamedTuple):
    """All that a link holds: which door was taken, the scenario, those pinned for comparison, and what is searched."""

    door: str
    scenario: Scenario
    pins: tuple[Scenario, ...] = ()
    wishes: Pairs = ()  # of a search: names and texts that `wishing` has checked


class Link(NamedTuple):
    """What was read from a link, and a line for everything in it that could not be used."""

    form: Form
    dropped: tuple[str, ...]


def query_of(form: Form) -> Query:
    """The parameters of a form."""
    query = {"v": [VERSION], "door": [form.door]} | {name: [text] for name, text in _texts(form.scenario).items()}
    query |= {f"{WISH}{name}": [text] for name, text in form.wishes}
    return query | ({"pin": [urlencode(_texts(pin)) for pin in form.pins]} if form.pins else {})


def _texts(scenario: Scenario) -> dict[str, str]:
    values = ((name, getattr(scenario, name)) for name in COLUMNS)
    return {name: _text(value) for name, value in values if value is not None}


def _text(value: object) -> str:
    return (
        str(value).lower() if isinstance(value, bool) else f"{value:.12g}" if isinstance(value, float) else str(value)
    )


def address(form: Form) -> str:
    """The query as a browser shows it."""
    return urlencode(query_of(form), doseq=True, safe="/:")


def read(query: Mapping[str, Sequence[str]], fallback: Form, names: Names) -> Link:
    """A form from the parameters of a link; what it does not say is left blank, what is wrong is as in `fallback`."""
    if sum(len(key) + sum(map(len, values)) for key, values in query.items()) > MAX_LINK:
        return Link(fallback, (f"the link is longer than {MAX_LINK:,} characters: nothing of it was read",))
    dropped: list[str] = []
    given = {key: values[-1] for key, values in query.items() if values}
    version = given.pop("v", VERSION)
    if version != VERSION:
        dropped.append(f"v={shown(version)}: this page reads version {VERSION} of links")
    door = given.pop("door", fallback.door)
    if door not in DOORS:
        dropped.append(f"door={shown(door)}: {' or '.join(DOORS)}")
        door = fallback.door
    given.pop("pin", None)
    wishes = read_pairs(given, WISH, names.models | names.gpus, dropped)
    scenario = _scenario(given, fallback.scenario, names, dropped)
    return Link(Form(door, scenario, _pins(query.get("pin", ()), names, dropped), wishes), tuple(dropped))


class Names(NamedTuple):
    """Names beyond the catalogue that this session knows: uploaded models and GPUs."""

    models: frozenset[str] = frozenset()
    gpus: frozenset[str] = frozenset()


def _scenario(given: Mapping[str, str], fallback: Scenario, names: Names, dropped: list[str]) -> Scenario:
    values: dict[str, object] = {}
    for key, text in given.items():
        try:
            values[key] = column_value(key, text, names)
        except PlannerError as error:
            dropped.append(str(error))
            if key in COLUMNS:
                values[key] = getattr(fallback, key)
    missing = {"model", "gpu"} if values.get("gpu") else {"model", "gpu", "n_gpus"}
    whole = fallback.model_dump(include=missing) | {key: v for key, v in values.items() if v is not None}
    return Scenario(**whole)


def column_value(column: str, text: str, names: Names) -> object:
    """One checked value. Raises PlannerError that names the column."""
    if column not in COLUMNS:
        raise BadValue(f"{shown(column)} is no setting of this page")
    if len(text) > MAX_VALUE:
        raise BadValue(f"{column} is longer than {MAX_VALUE} characters")
    value = value_of(column, text)
    if value is None:
        return None
    scenario_of({column: value})
    return known_name(column, value, names) if isinstance(value, str) else value


def known_name(column: str, name: str, names: Names) -> str:
    """A name as the catalogue has it, or one that was uploaded here; no path is ever opened. Raises PlannerError.

    What the command line would list and open is no help on a page: an unknown name is told where to look here.
    """
    name = models.without_host(name) if column == "model" else name
    try:
        return _known_name(column, name, names)
    except UnknownName as error:
        upload = {"model": f", or upload its config.json {WHERE}", "gpu": f", or upload its profile {WHERE}"}
        said = str(error).rsplit(" (planner ", 1)[0]
        stop = "" if said.endswith("?") else "."
        raise BadValue(f"{said}{stop} Choose one of the list{upload.get(column, '')}") from None


def _known_name(column: str, name: str, names: Names) -> str:
    if name in names.models | names.gpus:
        return name
    if column in ("model", "gpu") and name.startswith("upload:"):
        raise BadValue(f"{column} {shown(name)} was uploaded in another session; upload its file here too")
    if column == "model":
        return _bundled_model(name)
    if column == "gpu":
        return _bundled_gpu(name)
    return LOOKED_UP[column](name) if column in LOOKED_UP else name


def _bundled_model(name: str) -> str:
    if not PLAIN_NAME.fullmatch(name) or ".." in name:
        raise BadValue(f"model {shown(name)} is no bundled model; upload its config.json instead")
    found = models.known(name, on_disk=False)
    if found is None:
        raise UnknownName("model", name, models.model_ids())
    return name if "/" in name or found.weight_format else found.checkpoint


def _bundled_gpu(name: str) -> str:
    if not PLAIN_NAME.fullmatch(name) or name.lower().endswith((".yaml", ".yml")):
        raise BadValue(f"gpu {shown(name)} is no bundled GPU; upload its profile instead")
    return gpus.gpu(name).id


def _pins(texts: Iterable[str], names: Names, dropped: list[str]) -> tuple[Scenario, ...]:
    pins = []
    for number, text in enumerate(texts, 1):
        if number > MAX_PINS:
            dropped.append(f"pin: more than {MAX_PINS} pinned scenarios")
            break
        faults: list[str] = []
        pin = _scenario(dict(parse_qsl(text, max_num_fields=60)), Scenario(), names, faults)
        if faults or not (pin.model and pin.gpu):
            dropped.append(f"pin {number}: {faults[0] if faults else 'names no model or no GPU'}")
        else:
            pins.append(pin)
    return tuple(pins)
