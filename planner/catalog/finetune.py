"""Constants of fine-tuning: planner/data/finetune.yaml, by the names that users and frameworks write."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import ValidationError

from planner.catalog.engines import parse_version
from planner.catalog.files import read_yaml
from planner.catalog.paths import data_dir
from planner.errors import BadFile, BadValue, UnknownName, first_fault
from planner.specs.finetune import FinetuneConstants, Framework, Loss, Optimizer
from planner.training import Targets
from planner.units import GIB

Named = TypeVar("Named", bound=Framework | Optimizer | Loss)


@lru_cache(maxsize=1)
def constants() -> FinetuneConstants:
    """The shipped constants; keys in GiB become bytes. Raises BadFile when the file does not hold them."""
    path = data_dir() / "finetune.yaml"
    try:
        return FinetuneConstants.model_validate(_in_bytes(read_yaml(path)))
    except ValidationError as error:
        raise BadFile(f"{path.name}: {first_fault(error)}") from None


def _in_bytes(node: Any) -> Any:
    """Keys that end in _gib become _bytes, their values bytes."""
    if isinstance(node, list):
        return [_in_bytes(item) for item in node]
    if not isinstance(node, dict):
        return node
    return dict(_scaled(key, value) for key, value in node.items())


def _scaled(key: str, value: Any) -> tuple[str, Any]:
    if key.endswith("_gib"):
        return f"{key.removesuffix('_gib')}_bytes", {**value, "value": value["value"] * GIB}
    return key, _in_bytes(value)


def framework(name: str) -> Framework:
    """The framework of an id or alias, any case. Raises UnknownName."""
    return _named("framework", name, constants().frameworks, lambda item: item.aliases)


def optimizer(name: str) -> Optimizer:
    """The optimizer of an id or of a framework's own name for it. Raises UnknownName."""
    return _named("optimizer", name, constants().optimizers, lambda item: item.names)


def loss(name: str) -> Loss:
    """How logits and loss are kept. Raises UnknownName."""
    return _named("loss", name, constants().losses, lambda item: ())


def usual_loss(framework: Framework, version: str | None) -> str:
    """How a version of a framework keeps logits; a version that cannot be parsed is taken as the newest."""
    asked = parse_version(version or "")
    earlier = framework.earlier_losses if asked else ()
    found = (item.loss for item in earlier if (asked or ()) < (parse_version(item.before) or ()))
    return next(found, framework.loss)


def _named(what: str, name: str, items: Iterable[Named], others: Any) -> Named:
    listed, known = tuple(items), dict[str, Named]()
    for item in listed:
        known |= dict.fromkeys((alias.lower() for alias in (item.id, *others(item))), item)
    if name.strip().lower() not in known:
        raise UnknownName(what, name, known, f"known: {', '.join(item.id for item in listed)}")
    return known[name.strip().lower()]


@lru_cache(maxsize=256)
def targets(text: str) -> Targets:
    """Targets from a comma list of groups and module names. Raises UnknownName, BadValue for an empty list."""
    data, found = constants(), Targets()
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise BadValue(f"lora_targets {text[:80]!r} names nothing; write all-linear, attention or q_proj,v_proj")
    for name in names:
        if name in data.groups:
            found = found._replace(roles=found.roles | set(data.groups[name]))
        elif name in data.targets:
            found = found._replace(names=found.names | set(data.targets[name]))
        elif name in data.fused:
            found = found._replace(fused=found.fused | set(data.fused[name]))
        else:
            known = [*data.groups, *data.targets, *data.fused]
            raise UnknownName("LoRA target", name, known, f"groups: {', '.join(data.groups)}")
    return found
