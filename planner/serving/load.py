"""The load on a deployment, its capacity and rules, and the mean request as the engine sees it.

Every field is a scalar or an array (R,), one entry per scenario.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.arrays import PerRow

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

EVEN_VARIANCE = 1 / 3  # of a number drawn evenly from [-1, 1]
Z_P95 = 1.6448536269514722  # standard normal quantile at 0.95
PLANNED_AHEAD = 1.0  # steps by which a scheduler that works ahead of the GPU misses a request that comes at random


# Standard deviation of ln length where none is stated: even from 0.8 to 1 of the longest, as load generators draw.
VARY = 0.064


class Load(NamedTuple):
    """The load on the whole deployment. Lengths are means over requests, tokens.

    `concurrency`: with `request_rate_per_s` nan the loop is closed and this many requests (users, where they
    think between requests) always stand; with a rate it caps what is in flight, inf for no cap.
    `shared_prefix_tokens` at the head of every prompt are computed once for all; `cached_input_fraction` of
    the rest is the request's own history, found in the cache. `tokens_per_step` above 1 means speculative
    decoding. `waves`: a benchmark offers waves x concurrency requests all at once, at most `concurrency` of
    them in flight, so that the first wave's queue is in the mean TTFT; inf for a service. A benchmark whose
    requests are all of one length (`equal_lengths`) stays in waves on an engine that prefills first.
    `*_log_sd`: spread of lengths as standard deviation of their logarithm; 0 for fixed lengths.
    `run_requests`: sent at the rate, after which a load generator waits for their ends; inf for a service.
    `image_patches`: of all images of a request, encoded with its prompt.
    """

    input_tokens: PerRow
    output_tokens: PerRow
    concurrency: PerRow = np.inf
    request_rate_per_s: PerRow = np.nan
    think_time_s: PerRow = 0.0
    shared_prefix_tokens: PerRow = 0.0
    cached_input_fraction: PerRow = 0.0
    tokens_per_step: PerRow = 1.0
    waves: PerRow = np.inf
    equal_lengths: PerRow = False
    input_log_sd: PerRow = 0.0
    output_log_sd: PerRow = 0.0
    image_patches: PerRow = 0.0
    patches_per_image: PerRow = 1.0
    run_requests: PerRow = np.inf


class Capacity(NamedTuple):
    """How much one replica may run at once, and how many replicas there are.

    `sequences`: requests of this load that the KV pool holds on average while the engine runs: the guaranteed
    count where the engine reserves a request's full length, the expected count (mean residency) where it
    admits by the prompt. `chunks_mixed`: prefill chunks share a step with decodes (true) or run in steps of
    their own before the next decode (false). `lanes`: micro-batches in flight at once, one per pipeline stage.
    `chunk_overlap`: how far the chunks of one prompt do so too, the exponent of `steps.in_a_row`.
    `graph_batch`: most sequences of a step that a CUDA graph replays; the time of a step jumps there. `graph_each`:
    tokens that each of them has there.
    `computed_again`: share of what a full pool takes from its latest requests that is prefilled again; 0: none.
    `waits_on`: lanes of which one with a prompt holds up the others, because stages work in turn.
    """

    sequences: PerRow
    max_num_seqs: PerRow
    max_num_batched_tokens: PerRow
    chunks_mixed: PerRow = True
    lanes: PerRow = 1
    chunk_overlap: PerRow = 0
    replicas: PerRow = 1
    graph_batch: PerRow = np.inf
    graph_each: PerRow = 1.0
    computed_again: PerRow = 0.0
    waits_on: PerRow = 1.0


class FrontEnd(NamedTuple):
    """What a server does for a request outside of the engine's steps, seconds."""

    request_s: PerRow = 0.0  # API, tokenizing, first answer ...
    input_token_s: PerRow = 0.0  # ... per token of the prompt, beside other prompts ...
    tokenizer_token_s: PerRow = 0.0  # ... and one prompt after another
    serial_s: PerRow = 0.0  # that the front end of a replica needs for one request, one after another


class Scheduling(NamedTuple):
    """When an engine starts prompts, and which of them together.

    `late_steps`: that pass before the first step of a request that generates, beyond the one that runs on its
    arrival, because the scheduler works ahead of the GPU and the host still sends what earlier steps gave. The latter
    meets requests that follow others' ends, not those that come at random (`PLANNED_AHEAD`).
    `poll_steps`: the scheduler looks for new requests once in so many steps, and then finds several.
    `ranks`: attention data-parallel ranks that start prompts in the same step; they wait for each other,
    `balance_steps` at most.
    `attention_ranks`: among which the tokens of a step are divided; one prompt gets the part of one of them.
    `group_prompts`, `group_share`: of a benchmark's requests of one length so many, or this share of those in flight,
    are prefilled in one step and stay together, where chunks are mixed in; all (`group_whole`), if one step holds them.
    Benchmarks of at most `group_waves` waves keep groups as large as a step holds.
    """

    late_steps: PerRow = 0.0
    poll_steps: PerRow = 1.0
    ranks: PerRow = 1.0
    balance_steps: PerRow = 0.0
    attention_ranks: PerRow = 1.0
    group_prompts: PerRow = 1.0
    group_share: PerRow = 0.0
    group_whole: PerRow = False
    group_waves: PerRow = 0.0


AT_ONCE, NO_SERVER = Scheduling(), FrontEnd()


class Request(NamedTuple):
    """One mean request as the engine's scheduler sees it."""

    prefill_tokens: Array  # to be computed
    cached_tokens: Array  # before them in the context
    decode_steps: Array  # after the step that gives the first token
    decode_context: Array  # mean over the decode steps
    prefill_square_ratio: Array  # E[P^2] / E[P]^2
    prompt_log_sd: Array  # of ln P among requests of a closed loop whose lengths nobody states as equal, at least VARY
    overhead_s: Array  # outside of steps
    tokenizing_s: Array  # of it, one prompt after another
    serial_s: Array  # of it, while no other request of the replica has its turn
    gap_s: Array  # from the end of a user's request to the arrival of the next at the scheduler
    late_steps: Array  # missed on arrival
    rules: Scheduling
    random_arrivals: Mask  # at a rate, not one for one
    ranks_apart: Array  # attention data-parallel ranks that start prompts each for itself; 1: none
    density: Array  # of prompts, times their mean rate, where a benchmark's come in clumps
    image_patches: Array
    patches_per_image: Array
    again_tokens: PerRow = 0.0  # computed again for one that ends, of others that a full pool set back


def request_shape(load: Load, scheduling: Scheduling = AT_ONCE, front_end: FrontEnd = NO_SERVER) -> Request:
    """The mean request of the load: tokens to prefill, decode steps, mean context, time outside of steps.

    At least the last prompt token is computed even where all of the prompt is cached, and one token where there is
    neither a prompt nor an answer. Varying output lengths lengthen the context that the average decode step sees:
    I + E[O^2] / (2 E[O]).
    """
    cached = load.shared_prefix_tokens + load.cached_input_fraction * np.maximum(
        load.input_tokens - load.shared_prefix_tokens, 0
    )
    steps = np.maximum(load.output_tokens - 1, 0) / load.tokens_per_step
    least = np.where(steps > 0, np.minimum(load.input_tokens, 1), 1)
    prefill = np.maximum(load.input_tokens - cached, least)
    tokenizing_s = front_end.tokenizer_token_s * load.input_tokens
    overhead_s = front_end.request_s + front_end.input_token_s * load.input_tokens + tokenizing_s
    random = ~np.isnan(load.request_rate_per_s)
    varies = ~random & (np.asarray(load.equal_lengths) <= 0) & (load.input_log_sd <= 0)
    late_steps = np.where(random, np.minimum(scheduling.late_steps, PLANNED_AHEAD), scheduling.late_steps)
    return Request(
        prefill_tokens=prefill,
        cached_tokens=np.maximum(load.input_tokens - prefill, 0),
        decode_steps=steps,
        decode_context=load.input_tokens + load.output_tokens * np.exp(load.output_log_sd**2) / 2,
        prefill_square_ratio=np.exp(load.input_log_sd**2),
        prompt_log_sd=np.where(varies, VARY, load.input_log_sd),
        overhead_s=overhead_s,
        tokenizing_s=np.asarray(tokenizing_s, dtype=float),
        serial_s=np.asarray(front_end.serial_s, dtype=float),
        gap_s=overhead_s + load.think_time_s,
        late_steps=np.where(steps > 0, late_steps, 0) + (scheduling.poll_steps - 1) / 2,
        rules=Scheduling(*(np.asarray(field, dtype=float) for field in scheduling)),
        random_arrivals=random,
        ranks_apart=np.asarray(1.0),
        density=np.asarray(1.0),
        image_patches=load.image_patches,
        patches_per_image=load.patches_per_image,
    )


def speculative_tokens_per_step(acceptance_rate: Array, speculative_tokens: Array) -> Array:
    """Tokens that one verification step yields: (1 - a^(k+1)) / (1 - a), and k + 1 at a = 1.

    Assumes that each of the k drafted tokens is accepted independently with probability a.
    Ref: Leviathan et al. 2023, arXiv 2211.17192, equation 1.

    >>> float(speculative_tokens_per_step(0.5, 1))
    1.5
    """
    a, k = np.broadcast_arrays(np.asarray(acceptance_rate, dtype=float), np.asarray(speculative_tokens, dtype=float))
    return np.where(a < 1, (1 - a ** (k + 1)) / np.where(a < 1, 1 - a, 1), k + 1)


class Conversation(NamedTuple):
    """The mean request of a conversation."""

    input_tokens: Array  # the whole prompt, history included
    cached_tokens: Array  # of them, the history that was computed in earlier turns


def conversation(input_tokens: Array, output_tokens: Array, turns: Array, prefix_tokens: Array = 0) -> Conversation:  # type: ignore[assignment]
    """Prompts of a conversation of `turns`: each sends what was said before, of which the history is cached.

    Turn j = 0..T-1 sends the first prompt and j further ones with their answers: I + j (I - S + O), where the
    S tokens of the shared prefix (system prompt) stand once.
    """
    step = np.maximum(input_tokens - prefix_tokens, 0) + output_tokens
    mean_history = step * (np.asarray(turns, dtype=float) - 1) / 2
    return Conversation(input_tokens + mean_history, mean_history)


def log_sd(mean: Array, p95: Array) -> Array:
    """Spread of a log-normal length from its mean and 95th percentile: ln(p95 / mean) = z s - s^2 / 2.

    0 where p95 is unknown (nan) or not above the mean; at most z, where p95 / mean is largest.
    """
    ratio = np.log(np.fmax(np.asarray(p95, dtype=float) / np.maximum(mean, 1), 1))
    return Z_P95 - np.sqrt(np.maximum(Z_P95**2 - 2 * ratio, 0))


def uniform_log_sd(shortest_fraction: Array) -> Array:
    """Spread of lengths uniform in [a, 1] of nominal, as many load generators draw them; 0 at a = 1.

    That of the log-normal of the same mean square: sqrt(ln(1 + h^2 / 3)) with h = (1 - a) / (1 + a), half their range
    over their mean.
    """
    a = np.asarray(shortest_fraction, dtype=float)
    half = (1 - a) / (1 + a)
    sd: Array = np.sqrt(np.log1p(half**2 * EVEN_VARIANCE))
    return sd
