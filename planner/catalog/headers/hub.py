"""A checkpoint on the Hugging Face hub: its config.json and the headers of its safetensors files, by ranged reads.

Runs only when somebody asks for a repository by name (`planner import-model`); needs huggingface_hub (extra
`models`), whose session carries the user's token. Reads are bounded in bytes and in time, redirects leave for
the hub's own file servers alone, and no message holds a token or a signed address.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from planner.catalog.files import MAX_BYTES, parse_json
from planner.catalog.headers.imported import INDEX, MAX_INDEX_BYTES, WHOLE_FILES, Imported, import_safetensors
from planner.catalog.headers.records import FIRST_READ, Header
from planner.catalog.headers.safetensors import LENGTH, MAX_HEADER_BYTES, read_safetensors, sharded
from planner.errors import BadFile

REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
LIMIT_S = 10.0  # of one read
READERS = 8  # files read at once
MAX_REDIRECTS = 4
HOSTS = ("huggingface.co", "hf.co")  # and what lies below them
_FOUND, _GONE, _CLOSED = (200, 206), 404, (401, 403)

Fetch = Callable[[str, int], bytes | None]  # (file, first bytes wanted) -> them; None: no such file


def import_repository(name: str, fetch: Fetch | None = None) -> Imported:
    """A repository's checkpoint. `fetch` replaces the network. Raises BadFile with one line."""
    if not REPOSITORY.fullmatch(name) or ".." in name:
        raise BadFile(f"{name[:80]!r} is neither a path nor a repository as owner/name")
    read = fetch or _over_network(name)
    config = read("config.json", MAX_BYTES)
    if config is None:
        raise BadFile(f"{name}: no config.json in that repository; download a file of it and give its path")
    files = _files(name, read)
    with ThreadPoolExecutor(READERS) as pool:
        headers = list(pool.map(lambda file: _header(name, file, read), files))
    beside = read("hf_quant_config.json", MAX_BYTES)
    return import_safetensors(config, headers, name, parse_json(beside, name) if beside else None)


def _files(name: str, read: Fetch) -> list[str]:
    index = read(INDEX, MAX_INDEX_BYTES)
    if index is not None:
        where = f"{name}: {INDEX}"
        return sharded(parse_json(index, where, MAX_INDEX_BYTES), where)
    whole = next((file for file in WHOLE_FILES if read(file, LENGTH.size) is not None), None)
    if whole is None:
        raise BadFile(f"{name}: no safetensors files there; download one of its files and give the path")
    return [whole]


def _header(name: str, file: str, read: Fetch) -> Header:
    where = f"{name}: {file}"
    data = read(file, FIRST_READ)
    if data is None or len(data) < LENGTH.size:
        raise BadFile(f"{where}: no such file")
    length = LENGTH.unpack_from(data)[0]
    if len(data) < length + LENGTH.size <= MAX_HEADER_BYTES:
        data = read(file, length + LENGTH.size) or data
    return read_safetensors(data, where)._replace(whole=True)  # only its header was asked for


def _over_network(name: str) -> Fetch:
    try:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import HFValidationError, HTTPError
        from huggingface_hub.utils import build_hf_headers, get_session
    except ImportError:
        hint = "pip install 'llm-capacity-planner[models]' for reading the hub"
        raise BadFile(f"{name}: no such path, and huggingface_hub is not there: {hint}") from None

    def fetch(file: str, size: int) -> bytes | None:
        headers = build_hf_headers() | {"range": f"bytes=0-{size - 1}"}
        try:
            return _ranged(get_session(), hf_hub_url(name, file), headers, size)
        except HFValidationError:
            raise BadFile(f"{name}: no such path, and not a name that the hub allows") from None
        except (HTTPError, OSError, RuntimeError) as error:
            why = f"{type(error).__name__}; no network? A downloaded file or folder works without"
            raise BadFile(f"{name}: {file} cannot be read from the hub ({why})") from None

    return fetch


def _ranged(session: Any, url: str, headers: dict[str, str], size: int) -> bytes | None:
    """The first `size` bytes behind an address, within LIMIT_S; a token stays with the first host."""
    first = urlsplit(url).hostname
    until = time.monotonic() + LIMIT_S
    for _ in range(MAX_REDIRECTS):
        with session.stream("GET", url, headers=headers, timeout=LIMIT_S, follow_redirects=False) as answer:
            if answer.is_redirect:
                url = str(answer.next_request.url)
                host = urlsplit(url).hostname or ""
                if host != first and not any(host == own or host.endswith(f".{own}") for own in HOSTS):
                    raise OSError("redirected elsewhere")
                if host != first:
                    headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
                continue
            if answer.status_code == _GONE:
                return None
            if answer.status_code in _CLOSED:
                raise PermissionError("gated or private")
            if answer.status_code not in _FOUND:
                raise OSError(f"status {answer.status_code}")
            return _taken(answer, size, until)
    raise OSError("too many redirects")


def _taken(answer: Any, size: int, until: float) -> bytes:
    """At most `size` bytes of an answer, also of one that disregards the range."""
    parts, held = [], 0
    for part in answer.iter_bytes():
        if time.monotonic() > until:
            raise TimeoutError
        parts.append(part)
        held += len(part)
        if held >= size:
            break
    return b"".join(parts)[:size]
