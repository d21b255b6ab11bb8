"""The load of many deployments of one model and its objectives: lengths, images, requests in flight or at a rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner import serving
from planner.estimate.deployments import Deployment, Floats, numbers
from planner.serving import Load
from planner.units import MS_PER_S

DEFAULT_PERCENTILE = 95.0  # of the objectives
DEFAULT_IMAGE_PIXELS = 1024.0 * 1024.0


class Images(NamedTuple):
    """What the images of one request add to its prompt and to the image encoder's work, (R,)."""

    tokens: Floats  # to its prompt
    patches: Floats  # through the image encoder
    patches_per_image: Floats


def images(deployments: Sequence[Deployment]) -> Images:
    """Patches and tokens of the images of one request; none without an encoder."""
    vision = deployments[0].row.model.vision
    count = numbers(deployments, "images_per_request", 0)
    if vision is None:
        return Images(np.zeros_like(count), np.zeros_like(count), np.ones_like(count))
    pixels = numbers(deployments, "image_pixels", DEFAULT_IMAGE_PIXELS)
    side = vision.merge**2
    each = np.full_like(count, vision.tokens_per_image * side) if vision.tokens_per_image else pixels / vision.patch**2
    return Images(count * np.ceil(each / side), count * each, each)


class Prompts(NamedTuple):
    """The mean prompt, (R,)."""

    tokens: Floats  # history, shared prefix and images included
    cached_share: Floats  # of the tokens behind the shared prefix, those that the request's own history has cached


def prompt_lengths(deployments: Sequence[Deployment]) -> Prompts:
    """The prompts of the load; those of a conversation carry what was said before."""
    prompts = numbers(deployments, "input_tokens", 0) + images(deployments).tokens
    outputs = numbers(deployments, "output_tokens", 0)
    prefix, turns = numbers(deployments, "shared_prefix_tokens", 0), numbers(deployments, "turns", 1)
    talk = serving.conversation(prompts, outputs, turns, prefix)
    given = numbers(deployments, "cached_input_fraction", 0) * np.maximum(talk.input_tokens - prefix, 0)
    cached = np.maximum(given, talk.cached_tokens)
    return Prompts(talk.input_tokens, cached / np.maximum(talk.input_tokens - prefix, 1))


def length_log_sd(deployments: Sequence[Deployment], which: str, mean: Floats) -> Floats:
    """Standard deviation of ln length, "input" or "output": from its 95th percentile, else from the shortest."""
    tail = numbers(deployments, f"{which}_tokens_p95", np.nan)
    even = serving.uniform_log_sd(numbers(deployments, "shortest_fraction", 1))
    return np.where(np.isnan(tail), even, serving.log_sd(mean, tail))


def load_of(deployments: Sequence[Deployment]) -> Load:
    """The load on the whole deployment, peaks included."""
    peak = numbers(deployments, "peak_to_mean", 1)
    users = numbers(deployments, "users", np.nan) * peak
    rate = numbers(deployments, "request_rate_per_s", np.nan) * peak
    prompts, cached = prompt_lengths(deployments)
    outputs = numbers(deployments, "output_tokens", 0)
    seen, waves = images(deployments), numbers(deployments, "waves", 0)
    closed = np.where(np.isnan(users), np.inf, users)
    return Load(
        input_tokens=prompts,
        output_tokens=outputs,
        concurrency=np.fmin(numbers(deployments, "concurrency", np.inf), closed),
        request_rate_per_s=rate,
        think_time_s=np.where(np.isnan(users), 0.0, numbers(deployments, "think_time_s", 0)),
        shared_prefix_tokens=numbers(deployments, "shared_prefix_tokens", 0),
        cached_input_fraction=np.minimum(cached, 1.0),
        waves=np.where(waves > 0, waves, np.inf),
        equal_lengths=numbers(deployments, "shortest_fraction", np.nan) == 1,
        input_log_sd=length_log_sd(deployments, "input", prompts),
        output_log_sd=length_log_sd(deployments, "output", outputs),
        tokens_per_step=_tokens_per_step(deployments),
        image_patches=seen.patches,
        patches_per_image=seen.patches_per_image,
        run_requests=numbers(deployments, "run_requests", np.inf),
    )


def _tokens_per_step(deployments: Sequence[Deployment]) -> Floats | float:
    """Tokens that a verified step yields; 1 where nobody drafts."""
    if deployments[0].row.draft is None:
        return 1.0
    drafted, accepted = numbers(deployments, "speculative_tokens", 0), numbers(deployments, "acceptance_rate", 0)
    return serving.speculative_tokens_per_step(accepted, drafted)


def is_closed(load: Load) -> NDArray[np.bool_]:
    """Rows that state their requests in flight; in others these follow from a rate or from users who think."""
    return np.asarray(np.isnan(load.request_rate_per_s) & (np.asarray(load.think_time_s) == 0))


def objectives(deployments: Sequence[Deployment]) -> serving.Objectives:
    """Limits on the percentile of each time; none where the scenario states none."""
    return serving.Objectives(
        ttft_s=numbers(deployments, "ttft_slo_ms", np.nan) / MS_PER_S,
        tpot_s=numbers(deployments, "tpot_slo_ms", np.nan) / MS_PER_S,
        e2e_s=numbers(deployments, "e2e_slo_ms", np.nan) / MS_PER_S,
        percentile=numbers(deployments, "slo_percentile", DEFAULT_PERCENTILE),
    )
