"""CUDA graphs: which steps an engine captures and replays, and what that occupies."""

from typing import Literal

from planner.specs.base import Name, Spec
from planner.specs.engine.ranges import Amount, Tokens

Reason = Literal["vendor", "images", "types", "picks", "latent", "ranks", "stages", "adapters", "drafts", "routing"]


class Graphs(Spec):
    """Graphs of whole steps. Captured sizes are numbers of sequences: 1, 2, 4, then at a fine and a coarse distance."""

    # steps that they replay: none, those of one token, those without prefill, all
    steps: Literal["none", "single", "decode", "mixed"] = "mixed"
    none_on: tuple[Name, ...] = ()  # generations for which none are captured
    fine_step: Tokens = 8  # sequences between captured sizes ...
    fine_to: Tokens = 256  # ... up to this size ...
    coarse_step: Tokens = 16  # ... and beyond it
    in_budget: bool = False  # the engine subtracts them before it sizes the pool
    pool_bytes: Amount = 0  # on one GPU ...
    layer_bytes: Amount = 0  # ... and more per layer and captured size
    attention_bytes: Amount = 0  # workspace of FlashInfer's attention, which the first captured decode allocates ...
    attention_on: tuple[Name, ...] = ()  # ... on these generations ...
    attention_8bit_on: tuple[Name, ...] = ()  # ... and on these for caches of fewer than 16 bits
    unified_bytes: Amount = 0  # more while they are captured where host and GPU share one memory


class PromptPieces(Spec):
    """Graphs of the pieces of a step with prompts, between which the host launches attention."""

    replayed: bool = False
    layer_s: Amount = 0  # seconds to launch the attention of a layer
    latent_tokens: Amount | None = None  # most tokens of such a step in models with latent attention; None: any number
    never_with: tuple[Reason, ...] = ()  # what keeps an engine from replaying them ...
    never_types: tuple[str, ...] = ()  # ... model_type of configs, for `types` ...
    image_types: tuple[str, ...] = ()  # ... and those that are not kept from it by `images`
