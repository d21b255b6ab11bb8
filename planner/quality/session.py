"""A whole check from its settings: read, ask what is to be asked, compare."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from planner.errors import BadValue, UnknownName
from planner.quality.check import Check, Scorers, assigned, compare, matched
from planner.quality.examples import Answer, Example, Scorer, ScorerKind, read_answers, read_examples
from planner.quality.judge import judged
from planner.quality.observations import observation
from planner.quality.runner import Endpoint, Progress, ask, checked_url
from planner.specs.base import Spec

NEEDED = ("jsonschema", "scipy")


class Settings(Spec):
    """What to compare and how; a side is the URL of an OpenAI-compatible endpoint or a file of its answers."""

    baseline: str = Field("", description="URL of an endpoint (http://host:8000/v1), or a file of answers")
    candidate: str = Field("", description="the same for the quantized side")
    baseline_model: str = Field("", description="name of the model at the baseline's endpoint")
    candidate_model: str = Field("", description="name of the model at the candidate's endpoint")
    baseline_key_env: str = Field(
        "PLANNER_BASELINE_API_KEY", description="environment variable with the baseline's key"
    )
    candidate_key_env: str = Field("PLANNER_CANDIDATE_API_KEY", description="the same for the candidate")
    judge: str = Field("", description="URL of the endpoint that judges, for the scorer `judge`")
    judge_model: str = Field("", description="name of the model that judges")
    judge_key_env: str = Field("PLANNER_JUDGE_API_KEY", description="environment variable with the judge's key")
    scorer: str = Field("", description="scorers where an example names none, separated by commas")
    tolerance_points: Annotated[float, Field(gt=0, lt=100)] = Field(2.0, description="drop of the pass rate accepted")
    repeats: Annotated[int, Field(ge=1, le=100)] = Field(1, description="answers per example")
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.0, description="0 is greedy")
    max_tokens: Annotated[int, Field(ge=1)] = Field(1024, description="longest answer, tokens")
    seed: int | None = Field(None, description="seed of the first repeat; the next ones count up")
    concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(8, description="requests in flight")
    timeout_s: Annotated[float, Field(gt=0)] = Field(120.0, description="longest wait for an answer, s")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(4, description="tries after the first, with growing pauses")
    journal: str = Field("", description="folder for answers as they come; a rerun goes on there (EXAMPLES.quality)")
    html: str = Field("", description="write the report as one HTML file")
    observation: str = Field("", description="write the candidate's speed as JSON, for planner observe")
    attach: str = Field("", description="keep the verdict as own test of this model, for planner recommend")
    weight_format: str = Field("", description="the candidate's weight format, with --attach; blank: its name's own")
    kv_format: str = Field("", description="the candidate's KV format; blank: whatever it is")
    task_family: str = Field("", description="what the examples are: chat, code, tools, ...; blank: any task")


class Done(NamedTuple):
    """A check, and the speed of the sides that were asked, by their names."""

    check: Check
    observations: dict[str, dict[str, Any]]


class Answered(NamedTuple):
    """The answers of one side; of an endpoint also what failed and why, and its speed if it was asked in one go."""

    answers: Sequence[Answer]
    failed: Mapping[str, str] = MappingProxyType({})
    speed: dict[str, Any] | None = None


def missing_libraries() -> str:
    """What is to be installed before a check can run, in a line; "" when nothing is."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"a quality check needs {', '.join(missing)}: pip install 'llm-capacity-planner[quality]'" if missing else ""


def prepared(path: str, settings: Settings, run_tests: bool) -> tuple[list[Example], Scorers]:
    """The examples and their scorers, checked. Raises BadFile and BadValue naming the example at fault."""
    if missing := missing_libraries():
        raise BadValue(missing)
    examples = read_examples(path)
    return examples, assigned(examples, scorers_of(settings.scorer), run_tests)


def scorers_of(names: str) -> list[Scorer]:
    """Scorers by their names, separated by commas. Raises UnknownName."""
    known = [kind.value for kind in ScorerKind]
    wanted = [name.strip().replace("-", "_") for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise UnknownName("scorer", name, known, hint=f"known: {', '.join(known)}")
    return [Scorer(kind=ScorerKind(name)) for name in dict.fromkeys(wanted)]


def run(
    path: str,
    settings: Settings,
    run_tests: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> Done:
    """The check. Files are read before any endpoint is asked; `progress` gives each side its listener."""
    sides = (_Side("baseline", settings), _Side("candidate", settings))
    for side in sides:
        side.check()
    examples, scorers = prepared(path, settings, run_tests)
    judge = _judge(settings, scorers)
    from_files = [read_answers(side.source, side.name) if not side.live else None for side in sides]
    for side, answers in zip(sides, from_files, strict=True):
        if answers is not None:
            matched(examples, answers, side.name)
    if None in from_files:  # what scores at the end takes a second to load: while servers work, not after them
        threading.Thread(target=importlib.import_module, args=("scipy.stats",), daemon=True).start()
    baseline, candidate = (
        Answered(answers) if answers is not None else _asked(side, examples, path, progress)
        for side, answers in zip(sides, from_files, strict=True)
    )
    failed = {**baseline.failed, **candidate.failed}
    speeds = {side.name: one.speed for side, one in zip(sides, (baseline, candidate), strict=True) if one.speed}
    answered, tolerance = (baseline.answers, candidate.answers), settings.tolerance_points / 100
    if judge is None:
        return Done(compare(examples, answered, scorers, tolerance, failed), speeds)
    listener = progress("judge") if progress else None
    said = judged(judge.endpoint(), examples, answered, scorers, judge.journal(path), listener)
    failed |= {f"judge: {name}": why for name, why in said.failed.items()}
    kept = tuple([one for one in side if one.id not in said.failed] for side in answered)
    check = compare(examples, (kept[0], kept[1]), scorers, tolerance, failed, said.preferences)
    sentences = (*check.finding.sentences, said.sentence)
    return Done(check._replace(finding=check.finding._replace(sentences=sentences)), speeds)


def _asked(side: _Side, examples: Sequence[Example], path: str, progress: Callable[[str], Progress] | None) -> Answered:
    """The answers of an endpoint."""
    endpoint = side.endpoint()
    found = ask(endpoint, examples, side.journal(path), progress(side.name) if progress else None)
    failed = {f"{side.name}: {name}": why for name, why in found.failed.items()}
    return Answered(found.answers, failed, observation(endpoint, found))


def _judge(settings: Settings, scorers: Scorers) -> _Side | None:
    """The side that judges, where an example asks for it. Raises BadValue naming the example when none is given."""
    asking = (name for name, own in scorers.items() if any(one.kind is ScorerKind.JUDGE for one in own))
    name = next(asking, None)
    if name is None:
        return None
    side = _Side("judge", settings)
    if not side.live:
        raise BadValue(f"example {name!r}: judge needs an endpoint that judges: --judge URL --judge-model NAME")
    side.check()
    return side


class _Side:
    """One side's part of the settings."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self.source: str = getattr(settings, name)
        self.model: str = getattr(settings, f"{name}_model")
        self.live = "://" in self.source

    def check(self) -> None:
        if not self.source:
            raise BadValue(f"{self.name}: nothing is given; --{self.name} takes an endpoint's URL or a file of answers")
        if self.live:
            checked_url(self.source, self.name)
            if not self.model:
                raise BadValue(f"{self.name}: which model? --{self.name}-model takes the name that the endpoint knows")
            if importlib.util.find_spec("openai") is None:
                raise BadValue(f"{self.name}: an endpoint needs openai: pip install 'llm-capacity-planner[quality]'")

    def endpoint(self) -> Endpoint:
        names = ("concurrency", "timeout_s", "retries", "temperature", "max_tokens", "repeats", "seed")
        shared = {name: getattr(self.settings, name) for name in names}
        key_env = getattr(self.settings, f"{self.name}_key_env")
        if self.name == "judge":  # its own verdicts need no repeats and no chance
            shared |= {"repeats": 1, "temperature": 0.0, "seed": None}
        return Endpoint(side=self.name, base_url=self.source, model=self.model, key_env=key_env, **shared)

    def journal(self, examples: str) -> Path:
        folder = Path(self.settings.journal) if self.settings.journal else Path(f"{Path(examples).stem}.quality")
        return folder / f"{self.name}.jsonl"
