"""Ask one side's OpenAI-compatible endpoint for its answers: bounded, retried, journalled.

Greedy unless asked otherwise. What was answered before is not asked again. A key comes from the environment, goes
into the request's header and nowhere else.
"""

from __future__ import annotations

import asyncio
import email.utils
import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from planner.catalog.files import parse_json
from planner.errors import BadFile, BadValue
from planner.quality.examples import Answer, Example
from planner.quality.journal import Journal, fingerprint
from planner.specs.base import Spec

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MAX_ANSWER_BYTES = 8 * 2**20
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
RETRIED = frozenset({408, 409, 429}) | frozenset(range(500, 600))
FATAL = {401: "the key is not accepted", 403: "the key may not do this", 404: "no such path or model"}
FATAL |= dict.fromkeys((301, 302, 303, 307, 308), "it sends on to another address, which is not followed")
GIVE_UP_AFTER = 8  # examples in a row without an answer: the endpoint is down, not the example at fault

Progress = Callable[[int, int, int], None]  # done, all, failed


class Endpoint(Spec):
    """Where a side answers and how it is asked. `key_env` names the variable that holds the key, if one is needed."""

    side: str
    base_url: str
    model: str
    key_env: str
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 1024
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    seed: int | None = None


class Asked(NamedTuple):
    """One side's answers, and what could not be answered: example id to reason."""

    answers: list[Answer]
    failed: dict[str, str]
    seconds: float
    resumed: int


class _Failed(Exception):
    """One request's end: what is said, whether all others would end so too, and whether to try again and when."""

    def __init__(self, said: str, fatal: bool = False, again_s: float | None = None, again: bool = False) -> None:
        super().__init__(said)
        self.fatal, self.again, self.again_s = fatal, again, again_s
        self.down = False  # nobody listened, or the line broke before an answer


def checked_url(url: str, side: str) -> str:
    """The URL. Raises BadValue when it is none, or carries a secret that would be written down."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise BadValue(f"{side}: the URL cannot be read; it is like http://localhost:8000/v1") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise BadValue(
            f"{side}: a URL with a name, password or query in it is not used; keys come from the environment"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadValue(f"{side}: {url[:80]!r} is no http(s) URL; it is like http://localhost:8000/v1")
    return url


def ask(
    endpoint: Endpoint,
    examples: Sequence[Example],
    journal: Path,
    progress: Progress | None = None,
    bound: bool = True,
) -> Asked:
    """Answers to all examples, as far as they come. Raises BadValue that names the side when the endpoint is of no
    use (down, unauthorised, not compatible), with all completed answers kept in the journal. A journal is bound to
    its set of examples, unless ids name their content."""
    checked_url(endpoint.base_url, endpoint.side)
    settings = endpoint.model_dump(include={"base_url", "model", "temperature", "max_tokens", "seed"})
    kept = Journal(journal, endpoint.side, fingerprint(examples if bound else (), settings))
    resumed = len(kept.answers)
    try:
        failed, seconds = asyncio.run(_ask_all(endpoint, examples, kept, progress))
    finally:
        kept.close()
    wanted = {one.id: i for i, one in enumerate(examples)}
    answers = [a for a in kept.answers.values() if a.id in wanted and a.repeat < endpoint.repeats]
    answers.sort(key=lambda a: (wanted[a.id], a.repeat))
    return Asked(answers, failed, seconds, resumed)


@dataclass
class _Asking:
    """How far an endpoint has answered."""

    endpoint: Endpoint
    kept: Journal
    progress: Progress | None
    total: int
    done: int
    failed: dict[str, str] = field(default_factory=dict)  # why, by example
    in_a_row: int = 0  # failures since the last answer

    def tell(self) -> None:
        if self.progress:
            self.progress(self.done, self.total, len(self.failed))

    async def work(self, client: AsyncOpenAI, jobs: Iterator[tuple[Example, int]]) -> None:
        """Ask until no job is left. Raises BadValue when the endpoint is of no use."""
        for example, repeat in jobs:
            try:
                self.kept.add(await _answer(client, self.endpoint, example, repeat))
                self.in_a_row, self.done = 0, self.done + 1
            except _Failed as error:
                self._note(example, error)
            self.tell()

    def _note(self, example: Example, error: _Failed) -> None:
        said = _without(str(error), _key(self.endpoint))
        self.failed[example.id] = said
        self.in_a_row += 1
        n = len(self.kept.answers)
        if error.fatal or self.in_a_row >= GIVE_UP_AFTER or (error.down and not n):
            kept_words = f"; {n} answers are kept, a rerun goes on from there" if n else ""
            raise BadValue(f"{self.endpoint.side}: {self.endpoint.base_url}: {said}{kept_words}") from None


async def _ask_all(
    endpoint: Endpoint, examples: Sequence[Example], kept: Journal, progress: Progress | None
) -> tuple[dict[str, str], float]:
    """What failed and why, and the seconds from the first request on."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    wanted = list(itertools.product(examples, range(endpoint.repeats)))
    missing = [job for job in wanted if (job[0].id, job[1]) not in kept.answers]
    asking, jobs = _Asking(endpoint, kept, progress, len(wanted), len(wanted) - len(missing)), iter(missing)
    key = _key(endpoint) or "none"  # what servers without keys are sent: the client insists on one
    asking.tell()
    transport = DefaultAsyncHttpxClient(follow_redirects=False)  # examples go where they were sent and nowhere else
    async with AsyncOpenAI(base_url=endpoint.base_url, api_key=key, max_retries=0, http_client=transport) as client:
        begun = time.monotonic()
        tasks = [asyncio.create_task(asking.work(client, jobs)) for _ in range(endpoint.concurrency)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return asking.failed, time.monotonic() - begun


def _key(endpoint: Endpoint) -> str:
    """The key, "" where there is none. Raises BadValue when it cannot stand in a header."""
    key = os.environ.get(endpoint.key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise BadValue(f"{endpoint.side}: the key in {endpoint.key_env} holds characters that no header takes")
    return key


def _without(text: str, key: str) -> str:
    line = " ".join(text.split())[:300]
    return line.replace(key, "[key]") if key else line


async def _answer(client: AsyncOpenAI, endpoint: Endpoint, example: Example, repeat: int) -> Answer:
    """One answer, tried again with growing pauses (or the server's own) where another try may help."""
    for attempt in itertools.count():
        try:
            return await _once(client, endpoint, example, repeat)
        except _Failed as error:
            if not error.again or attempt >= endpoint.retries:
                raise
            pause = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
            await asyncio.sleep(min(max(pause, error.again_s or 0.0), LONGEST_PAUSE_S))
    raise AssertionError("an endless count ended")


async def _once(client: AsyncOpenAI, endpoint: Endpoint, example: Example, repeat: int) -> Answer:
    from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAIError

    begun = time.monotonic()
    try:
        async with asyncio.timeout(endpoint.timeout_s):
            body = await _body(client, endpoint, example, repeat)
    except (TimeoutError, APITimeoutError):
        raise _Failed(f"no answer within {endpoint.timeout_s:g} s", again=True) from None
    except APIStatusError as error:
        code = error.status_code
        again, fatal = code in RETRIED, code in FATAL
        said = f"HTTP {code}{f', {FATAL[code]}' if fatal else ''}: {error.message}"
        raise _Failed(said, fatal, _retry_after(error.response.headers.get("retry-after")), again) from None
    except APIConnectionError as error:
        unreached = _Failed(f"cannot be reached ({error.__cause__ or error})", again=True)
        unreached.down = True
        raise unreached from None
    except _Failed:
        raise
    except OpenAIError as error:
        raise _Failed(f"not an answer that can be read ({error})", again=True) from None
    except Exception as error:  # the transport's own, of whichever HTTP library the client stands on
        if not type(error).__module__.startswith(("httpx", "httpcore", "h11", "anyio", "ssl")):
            raise
        raise _Failed(f"the connection broke ({type(error).__name__})", again=True) from None
    return _read(body, example, repeat, time.monotonic() - begun)


async def _body(client: AsyncOpenAI, endpoint: Endpoint, example: Example, repeat: int) -> bytes:
    """The response's bytes, never more than are read: a server may send without end."""
    more: dict[str, Any] = {"tools": example.tools} if example.tools else {}
    if endpoint.seed is not None:
        more["seed"] = endpoint.seed + repeat
    request: Any = client.chat.completions.with_streaming_response.create
    parts, size = [], 0
    async with request(
        model=endpoint.model,
        messages=example.messages,
        temperature=endpoint.temperature,
        max_tokens=endpoint.max_tokens,
        timeout=endpoint.timeout_s,
        **more,
    ) as response:
        async for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise _Failed(f"more than {MAX_ANSWER_BYTES} bytes of answer")
    return b"".join(parts)


def _retry_after(header: str | None) -> float | None:
    """Seconds that a server asks to wait, given as a number or as a date."""
    if not header:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return None


def _text_only(value: Any) -> Any:
    """A JSON value without lone surrogates, which no file takes."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _read(body: bytes, example: Example, repeat: int, latency_s: float) -> Answer:
    try:
        document = parse_json(body, "the answer", MAX_ANSWER_BYTES)
    except BadFile as error:
        raise _Failed(str(error), again=True) from None
    try:
        choice = document["choices"][0]
        message, usage = choice["message"], document.get("usage") or {}
        calls = tuple(call for call in _text_only(message.get("tool_calls")) or [] if isinstance(call, dict))
        return Answer(
            id=example.id,
            repeat=repeat,
            output=_text_only(message.get("content")) or "",
            tool_calls=calls,
            finish_reason=choice.get("finish_reason"),
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
            latency_s=latency_s,
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValidationError):
        raise _Failed("not compatible: the answer holds no choices with a message", fatal=True) from None
