"""What a search is asked on the page: texts in the address become wishes, bad ones are named and dropped."""

from __future__ import annotations

import pytest

from defaults import first_scenario
from links import Form, Names, query_of, read
from money import against, terms
from planner.billing import TokenPrice
from planner.catalog import formats
from planner.errors import PlannerError
from planner.estimate import estimate
from planner.specs.scenario import Scenario
from planner.specs.wish import RankBy
from wishing import FORMATS, chosen_models, load_of, prices_of, space_of, updated, wish_of

FIRST = Form("load", first_scenario())
WISHES = updated(
    (),
    {
        "max_usd_per_hour": "12.5", "rank_by": "cost", "sizes": "7-70", "gpus": "l4,h100-sxm", "prices": "l4:0.5",
        "formats": "4 bit,8 bit", "engines": "vllm", "small_kv": "yes",
    },
)  # fmt: skip


def test_a_link_keeps_what_is_searched() -> None:
    form = FIRST._replace(wishes=WISHES)
    link = read(query_of(form), Form("hardware", first_scenario()), Names())
    assert link.dropped == () and link.form == form


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_usd_per_hour", "-3"), ("max_gpus", "nan"), ("rank_by", "beauty"), ("sizes", "70-7"), ("gpus", "h10"),
        ("prices", "l4:0"), ("prices", "l4:-1"), ("prices", "l4"), ("blend", "0,0,0,0"), ("blend", "1,2"),
        ("formats", "<script>"), ("engines", "ollama9"), ("small_kv", "no"), ("models", "../../etc/passwd"),
        ("colour", "red"),
    ],
)  # fmt: skip
def test_what_is_no_wish_is_dropped_in_one_line(name: str, text: str) -> None:
    query = query_of(FIRST) | {f"find_{name}": [text]}
    link = read(query, FIRST, Names())
    assert link.form == FIRST and len(link.dropped) == 1 and "\n" not in link.dropped[0]


def test_wishes_become_a_wish_and_a_space() -> None:
    wish, space = wish_of(WISHES, "load"), space_of(WISHES, first_scenario(), "load")
    assert (wish.rank_by, wish.max_usd_per_hour, wish.usd_per_gpu_hour) == (RankBy.COST, 12.5, {"l4": 0.5})
    assert space.gpus == ("l4", "h100-sxm") and space.engines == ("vllm",) and space.counts == ()
    assert {"fp8", "awq-int4-g128"} <= {*space.formats} and "bf16" not in space.formats


def test_behind_the_door_of_hardware_all_of_it_is_used() -> None:
    space = space_of((), Scenario(gpu="rtx4090", n_gpus=2), "hardware")
    assert (space.gpus, space.counts) == (("rtx4090",), (2,))
    assert wish_of((), "hardware").rank_by is RankBy.QUALITY


def test_the_load_alone_is_kept() -> None:
    load = load_of(first_scenario().model_copy(update={"tpot_slo_ms": 40.0}), "load")
    assert load.model is load.gpu is load.weight_format is load.tp is None
    assert (load.concurrency, load.tpot_slo_ms) == (first_scenario().concurrency, 40.0)


def test_models_are_chosen_by_size() -> None:
    names = chosen_models({"sizes": "7-10"}, "load")
    assert "Qwen/Qwen3-8B" in names and "Qwen/Qwen3-32B" not in names and "BAAI/bge-m3" not in names


def test_every_format_of_the_groups_is_known() -> None:
    for names in FORMATS.values():
        assert all(formats.weight_format(name).id == name for name in names)


def test_a_price_of_nothing_is_refused() -> None:
    with pytest.raises(PlannerError, match="price of l4"):
        prices_of("l4:0")


def test_own_gpus_and_an_api_are_compared_in_words() -> None:
    row = estimate(Scenario(model="Qwen/Qwen3-8B", gpu="h100-sxm", concurrency=32, usd_per_gpu_hour=2.0)).rows()[0]
    fleet, traffic, capacity = terms(row, 0.3, 1)
    cheap, dear = TokenPrice(0.0001, 0.0001), TokenPrice(50.0, 50.0)
    told = against(fleet, traffic, capacity, cheap)
    assert "The API is cheaper" in told and "these GPUs serve" in told
    assert "Your own GPUs are cheaper" in against(fleet, traffic, capacity, dear)
