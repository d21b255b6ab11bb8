"""How an engine admits and orders requests, and its settings when the user gives none."""

from typing import Annotated

from pydantic import Field

from planner.specs.base import Name, Spec
from planner.specs.engine.ranges import Amount, Ratio, Share, Tokens


class Scheduler(Spec):
    """Which prompts share a step, what a prompt holds up, and how long a request waits for its first step."""

    chunks_mixed: bool = True  # prefill chunks share a step with decodes; false: steps of their own
    chunk_overlap: Share = 0  # of a prompt's chunks in pipeline stages, an exponent
    stages_wait: bool = False  # a prompt in one micro-batch of a pipeline holds up the others
    ranks_together: bool = False  # attention-DP ranks start prompts in the same step
    ranks_in_turn: bool = False  # they take requests in turn; false: the one with the fewest takes the next
    rank_budget: bool = True  # max_num_batched_tokens holds for every attention-DP rank; false: for all together
    rank_slots: bool = True  # a max_num_seqs that is stated, likewise; the default holds for every rank
    late_steps: Amount = 0  # that pass between a request's arrival and its first, beyond the one that runs ...
    balance_steps: Amount = 0  # ... and for which attention-DP ranks wait at most until each has a prompt
    # of a benchmark's requests of one length, how many stay together from wave to wave: so many ...
    group_prompts: Ratio = 1
    group_share: Share = 0  # ... or this share of those in flight ...
    group_whole: bool = False  # ... or all, if one step prefills them all ...
    group_waves: Amount = 0  # ... or as many as a step holds, in a benchmark of at most so many waves


class Tier(Spec):
    """Default limits on devices of at least `from_bytes`."""

    from_bytes: Amount
    max_num_seqs: Tokens
    max_num_batched_tokens: Tokens
    graph_batch: Tokens = 512  # largest batch that is captured
    graph_batch_tp4: Tokens = 512  # the same when tp >= 4
    except_names: tuple[str, ...] = ()  # substrings of device names that stay in the tier below
    discrete: bool = False  # only for GPUs with memory of their own: of unified memory the engine learns no size
    whole_prompts_to: Tokens = 1  # up to this max_model_len a step takes a prompt as a whole, however long


class Defaults(Spec):
    """Settings when the user gives none."""

    tiers: Annotated[tuple[Tier, ...], Field(min_length=1)]  # by rising from_bytes
    rocm_whole_prompts: bool = False  # on ROCm a step takes a prompt of max_model_len as a whole
    whole_prompts: bool = False  # a step takes at least one prompt as a whole, beside all slots
    wide_graph_types: tuple[str, ...] = ()  # model_type of configs for which the engine captures larger batches ...
    wide_graph_batch: Tokens = 512  # ... up to this ...
    wide_graph_step: Tokens = 16  # ... and every so many beyond `graphs.fine_to`
    wide_graph_on: tuple[Name, ...] = ()  # generations on which it captures as large ones of any model
    server_slots: Tokens = 256  # most sequences of a whole server, all attention-DP ranks together, of ...
    server_slots_types: tuple[str, ...] = ()  # ... models of these types (model_type); of others the tier's
    drafted_slots: Tokens | None = None  # the same of a server that drafts; None: the tier's
    # captured tokens for each slot and token that it generates in a step, at most; None: any
    graph_slot_tokens: Amount | None = None
    n_ubatch: Tokens = 512
    flash_attention: bool = True  # llama.cpp: attention is fused unless the scenario says otherwise
