"""Results of load generators that nest their figures: GuideLLM and AIPerf (and GenAI-Perf before it)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from planner.catalog.observations.reading import (
    Document,
    Reading,
    figures,
    load,
    number,
    positive,
    section,
    stated,
    whole,
)
from planner.specs.observation import Tool
from planner.units import MS_PER_S

UNITS_MS = {"ms": 1.0, "s": MS_PER_S, "sec": MS_PER_S, "us": 1 / MS_PER_S, "ns": 1 / MS_PER_S**2}


def is_guidellm(document: Document) -> bool:
    """Whether a document is a GuideLLM report."""
    reports = document.get("benchmarks")
    return isinstance(reports, list) and bool(reports) and bool(section(reports[0], "metrics"))


def guidellm(document: Document, where: str) -> Iterator[Reading]:
    """Every benchmark of a report: one strategy each, means of its successful requests."""
    for index, report in enumerate(document["benchmarks"], 1):
        if isinstance(report, Mapping):
            yield _guidellm(report, _guidellm_model(document, report), f"{where} benchmark {index}")


def _guidellm(report: Document, model: str, where: str) -> Reading:
    metrics = section(report, "metrics")

    def mean(name: str) -> float | None:
        found = section(metrics, name, "successful") or section(metrics, name)
        return positive(section(found, "mean") if isinstance(found, Mapping) else None)

    seconds = mean("request_latency")
    measured = figures(
        ttft_ms=mean("time_to_first_token_ms"),
        tpot_ms=mean("inter_token_latency_ms"),
        e2e_ms=seconds and MS_PER_S * seconds,
        output_tokens_per_s=mean("output_tokens_per_second"),
        requests_per_s=mean("requests_per_second"),
    )
    columns = _guidellm_load(report, mean("request_concurrency")) | stated(
        input_tokens=whole(mean("prompt_token_count")), output_tokens=whole(mean("output_token_count"))
    )
    return Reading(Tool.GUIDELLM, where, columns, measured, model, "", _guidellm_faults(report))


def _guidellm_load(report: Document, in_flight: float | None) -> dict[str, Any]:
    """By the strategy: one after the other, so many streams, a rate, or everything at once."""
    strategy = section(report, "config", "strategy") or section(report, "args", "strategy")
    kind = str(section(strategy, "type_") or "")
    done = number(section(report, "metrics", "request_totals", "successful"))
    if kind == "synchronous":
        return load(done, 1, None)
    if kind == "concurrent":
        return load(done, section(strategy, "streams"), None)
    if kind in ("constant", "poisson"):
        return load(None, None, section(strategy, "rate"))
    return load(done, in_flight, None)


def _guidellm_model(document: Document, report: Document) -> str:
    places = (
        section(report, "worker", "backend_model"),
        section(report, "config", "backend", "model"),
        section(document, "args", "model"),
        section(report, "benchmarker", "backend", "model"),
    )
    return next((place for place in places if isinstance(place, str) and place), "")


def _guidellm_faults(report: Document) -> tuple[str, ...]:
    totals = section(report, "metrics", "request_totals")
    failed, done = number(section(totals, "errored")) or 0, number(section(totals, "successful")) or 0
    return (f"{failed:.0f} of {failed + done:.0f} requests failed",) if failed > 0.05 * (failed + done) else ()


def is_aiperf(document: Document) -> bool:
    """Whether a document is an aggregated export of AIPerf or GenAI-Perf."""
    records = section(document, "records") or document
    return "request_latency" in records and "input_config" in document


def aiperf(document: Document, where: str) -> Reading:
    """Means over all requests; the GPU's name where its telemetry is in the file."""
    records = section(document, "records") or document

    def mean(name: str) -> float | None:
        return positive(section(records, name, "avg"))

    def ms(name: str) -> float | None:
        found = mean(name)
        return found and found * UNITS_MS.get(str(section(records, name, "unit") or "ms").strip(), 1.0)

    measured = figures(
        ttft_ms=ms("time_to_first_token"),
        tpot_ms=ms("inter_token_latency"),
        e2e_ms=ms("request_latency"),
        output_tokens_per_s=mean("output_token_throughput"),
        requests_per_s=mean("request_throughput"),
    )
    asked = section(document, "input_config")
    generator = section(asked, "loadgen") or section(asked, "perf_analyzer", "stimulus") or asked
    columns = load(mean("request_count"), section(generator, "concurrency"), _rate(generator)) | stated(
        input_tokens=whole(mean("input_sequence_length")), output_tokens=whole(mean("output_sequence_length"))
    )
    names = section(asked, "endpoint", "model_names") or section(asked, "model_names") or section(asked, "model")
    model = names[0] if isinstance(names, list) and names else names if isinstance(names, str) else ""
    cards = _cards(document)
    columns |= {"n_gpus": len(cards)} if len(cards) > 1 else {}
    return Reading(Tool.AIPERF, where, columns, measured, str(model), cards[0] if cards else "")


def _rate(generator: Document) -> float | None:
    mode = str(section(generator, "request_rate_mode") or "")
    return None if mode == "concurrency_burst" else positive(section(generator, "request_rate"))


def _cards(document: Document) -> list[str]:
    endpoints = section(document, "telemetry_data", "endpoints")
    listed = [section(endpoint, "gpus") for endpoint in endpoints.values()] if isinstance(endpoints, Mapping) else []
    names = [section(card, "gpu_name") for cards in listed if isinstance(cards, Mapping) for card in cards.values()]
    return [name for name in names if isinstance(name, str) and name]
