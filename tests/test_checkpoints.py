"""Which checkpoint one downloads."""

from planner.catalog.checkpoints import checkpoint
from planner.catalog.formats import weight_format, weight_format_ids
from planner.catalog.models import model


def test_a_models_own_format_is_its_own_checkpoint() -> None:
    assert checkpoint(model("openai/gpt-oss-20b"), weight_format("mxfp4")) == "openai/gpt-oss-20b"


def test_a_published_quantization_is_named() -> None:
    assert checkpoint(model("Qwen/Qwen3-32B"), weight_format("fp8-block128")) == "Qwen/Qwen3-32B-FP8"


def test_a_format_nobody_published_says_how_to_make_it() -> None:
    said = checkpoint(model("microsoft/phi-4"), weight_format("exl3-4.0"))
    assert said.startswith("quantize microsoft/phi-4: ")


def test_every_format_has_a_way_to_its_checkpoint() -> None:
    spec = model("microsoft/phi-4")
    assert all(not checkpoint(spec, weight_format(name)).endswith(": ") for name in weight_format_ids())
