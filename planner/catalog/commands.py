"""An engine's own start line as a scenario: `vllm serve ...`, SGLang, llama-server, trtllm-serve.

How each engine spells a column is data (`planner/data/commands.yaml`); here stands only what depends on
several flags at once. A flag that nobody knows is handed back by name, never dropped in silence.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from planner.catalog.engines import backend_named
from planner.catalog.files import parse_json, read_yaml
from planner.catalog.paths import data_dir
from planner.catalog.values import Value, number_of, scenario_of, shown, value_of
from planner.errors import BadValue, PlannerError
from planner.specs.scenario import Scenario

MAX_LENGTH = 20_000
ALL_LAYERS = 99  # llama.cpp users write -ngl 99 and the like for "all"

_KV = {"fp8": "fp8", "int8": "int8", "nvfp4": "nvfp4"}
_TASKS = {"embed": "embed", "embedding": "embed", "pooling": "embed", "score": "rerank", "classify": "rerank"}
_DTYPES = {
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "fp16": "fp16",
    "float32": "fp32",
    "float": "fp32",
}
_QUANTIZATIONS = {
    "fp8": "fp8",
    "w8a8_fp8": "fp8",
    "w8a8_int8": "int8-w8a8",
    "awq": "awq-int4-g128",
    "awq_marlin": "awq-int4-g128",
    "gptq": "gptq-int4-g128",
    "gptq_marlin": "gptq-int4-g128",
    "bitsandbytes": "bnb-nf4",
    "mxfp4": "mxfp4",
    "modelopt_fp4": "nvfp4",
    "modelopt": "fp8",
    "torchao": "torchao-int4-g128",
    "hqq": "hqq-4bit-g64",
}
_GGUF_TYPE = re.compile(r"[-._]((?:UD-)?(?:I?Q\d[0-9A-Z_]*|TQ\d_\d|MXFP4(?:_MOE)?|BF16|F16|F32))$", re.IGNORECASE)

Raw = dict[str, str]


class Command(NamedTuple):
    """What a start line says: a scenario without GPU and load, and the flags that were not considered."""

    scenario: Scenario
    not_considered: tuple[str, ...]


class _Flags(NamedTuple):
    """The flags of one engine by arity."""

    columns: dict[str, str]
    switches: dict[str, list[Any]]
    raw: dict[str, str]
    raw_switches: dict[str, str]
    raw_optional: dict[str, str]
    ignored: frozenset[str]
    ignored_switches: frozenset[str]
    lists: frozenset[str]


@lru_cache(maxsize=1)
def _engines() -> dict[str, Any]:
    return dict(read_yaml(data_dir() / "commands.yaml"))


@lru_cache(maxsize=8)
def _flags(engine: str) -> _Flags:
    data = _engines()[engine]
    raw, ignored = data["raw"], data["ignored"]
    return _Flags(
        columns=data["columns"],
        switches=data["switches"],
        raw=raw["values"],
        raw_switches=raw.get("switches", {}),
        raw_optional=raw.get("optional", {}),
        ignored=frozenset(ignored["values"].split()),
        ignored_switches=frozenset(ignored["switches"].split()),
        lists=frozenset(ignored["lists"].split()),
    )


def scenario_from_command(line: str, on_disk: bool = True) -> Command:
    """The deployment that a start line describes; paths in it are looked at only where they are `on_disk` here.

    Environment settings in front, a container's `run`, quotes and line continuations are understood. Raises
    BadValue for a line that no known engine starts, or a value that cannot be read.
    """
    engine, tag, words = _engine(_words(line))
    values: dict[str, Value] = {"engine": engine}
    if version := re.search(r"\d+(?:\.\d+)+|(?<=b)\d{4,}", tag):
        values["engine_version"] = version[0]
    for part, built in _engines()[engine].get("tags", {}).items():
        if part in tag:
            values["backend"] = built
    raw, unknown = _sort(_flags(engine), words, values)
    _FINISH[engine](raw, values, on_disk)
    return Command(scenario_of(values), tuple(unknown))


def _words(line: str) -> list[str]:
    """The words of a start line from the program's name on. Raises BadValue where it cannot be split."""
    if len(line) > MAX_LENGTH:
        raise BadValue(f"the start line is longer than {MAX_LENGTH} characters")
    try:
        words = shlex.split(line.replace("\\\r\n", " ").replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise BadValue(f"the start line cannot be split into words ({error})") from None
    while words and (re.fullmatch(r"\w+=.*", words[0], re.DOTALL) or words[0] in ("env", "sudo", "nohup", "exec")):
        words.pop(0)
    return words


def _engine(words: list[str]) -> tuple[str, str, list[str]]:
    """Engine, a container's tag, and the words after the program's name."""
    for engine, data in _engines().items():
        for index, word in enumerate(words):
            image, _, tag = word.partition(":")
            if image in data["images"]:
                return engine, tag, _after_start(data["starts"], words[index + 1 :])
    for engine, data in _engines().items():
        rest = _after_start(data["starts"], words)
        if len(rest) < len(words):
            return engine, "", rest
    known = ", ".join(data["starts"][0] for data in _engines().values())
    raise BadValue(f"{shown(' '.join(words[:3]))} starts no engine that is known ({known})")


def _after_start(starts: list[str], words: list[str]) -> list[str]:
    """The words behind one of the programs' names within the first few, or all words."""
    for start in starts:
        name = start.split()
        for index in range(min(len(words), 4)):
            head = [Path(words[index]).name, *words[index + 1 : index + len(name)]]
            if head == name:
                return words[index + len(name) :]
    return words


def _sort(flags: _Flags, words: list[str], values: dict[str, Value]) -> tuple[Raw, list[str]]:
    """Fill `values` with the columns that stand alone; the rest comes back raw, and unknown flags by name."""
    raw: Raw = {}
    unknown: list[str] = []
    rest = list(words)
    while rest:
        flag, equals, given = rest.pop(0).partition("=")
        if not _is_flag(flag):
            raw.setdefault("positional", flag + equals + given)
            continue
        flag, denied = _spelt(flags, flag)
        if flag in flags.switches:
            column, value = flags.switches[flag]
            values[column] = not value if denied else value
        elif flag in flags.raw_switches or flag in flags.ignored_switches:
            raw |= {} if denied or flag in flags.ignored_switches else {flags.raw_switches[flag]: "true"}
        elif flag in flags.lists or flag not in _known(flags):
            while rest and not _is_flag(rest[0]):
                rest.pop(0)
            unknown += [] if flag in flags.lists else [flag]
        elif flag in flags.raw_optional:
            raw[flags.raw_optional[flag]] = given or (rest.pop(0) if rest and not _is_flag(rest[0]) else "on")
        else:
            _valued(flags, flag, given if equals else rest.pop(0) if rest else "", raw, values)
    return raw, unknown


def _spelt(flags: _Flags, flag: str) -> tuple[str, bool]:
    """The flag as the table writes it (`--max_model_len` is `--max-model-len`), and whether `--no-` denies it."""
    dashed = "--" + flag[2:].replace("_", "-") if flag.startswith("--") else flag
    known = _known(flags)
    if flag in known or dashed in known:
        return (flag if flag in known else dashed), False
    positive = dashed.replace("--no-", "--", 1)
    switch = positive in flags.switches or positive in flags.raw_switches or positive in flags.ignored_switches
    return (positive, True) if switch and positive != dashed else (flag, False)


def _valued(flags: _Flags, flag: str, given: str, raw: Raw, values: dict[str, Value]) -> None:
    if not given:
        raise BadValue(f"{flag} has no value")
    if flag in flags.raw:
        raw[flags.raw[flag]] = given
    elif flag in flags.columns:
        column = flags.columns[flag]
        value = value_of(column, given)
        if value is not None:
            values[column] = value


def _known(flags: _Flags) -> frozenset[str]:
    return frozenset().union(*flags)


def _is_flag(word: str) -> bool:
    return bool(re.match(r"--?[A-Za-z]", word))


def _whole(name: str, text: str) -> int:
    """A count as engines accept it: 32768, 32k (thousands), 32K (2^10), 1M."""
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
    unit = units.get(text[-1:], 1)
    count = round(number_of(name, text[:-1] if unit != 1 else text) * unit, 6)
    if not count.is_integer():
        raise BadValue(f"{name} {shown(text)} is not a whole number")
    return int(count)


def _serving(raw: Raw, values: dict[str, Value], on_disk: bool) -> None:
    """What vLLM, SGLang and TensorRT-LLM share."""
    if "positional" in raw:
        values.setdefault("model", raw["positional"])
    _own_folder(values, on_disk)
    for key, column in (("length", "max_model_len"), ("batched", "max_num_batched_tokens")):
        if key in raw and raw[key] not in ("auto", "-1"):
            values[column] = _whole(column, raw[key])
    if raw.get("kv", "auto") != "auto":
        values["kv_format"] = _DTYPES.get(raw["kv"]) or _KV.get(raw["kv"].split("_")[0], raw["kv"])
    weight_format = _weight_format(raw, str(values.get("model", "")), on_disk)
    if weight_format:
        values["weight_format"] = weight_format
    task = _TASKS.get(raw.get("task", ""))
    if task:
        values["task"] = task


def _weight_format(raw: Raw, model: str, on_disk: bool) -> str | None:
    """The format that --quantization and --dtype ask for; None where the checkpoint's own stands."""
    if _own_format(model, on_disk):
        return None
    asked = raw.get("quantization", "")
    return _QUANTIZATIONS.get(asked) or (None if asked else _DTYPES.get(raw.get("dtype", "")))


def _own_folder(values: dict[str, Value], on_disk: bool) -> None:
    """A folder of one's own that is named as the planner's start lines name it: ./MODEL-FORMAT."""
    from planner.catalog import formats, models

    name = str(values.get("model", ""))
    stem = Path(name).name
    if not name.startswith(("./", "/")) or (on_disk and Path(name).exists()):
        return
    for format_id in sorted(formats.weight_format_ids(), key=len, reverse=True):
        if stem.endswith(f"-{format_id}"):
            with contextlib.suppress(PlannerError):
                values["model"] = models.model(stem.removesuffix(f"-{format_id}")).id
                values.setdefault("weight_format", format_id)
            return


def _own_format(model: str, on_disk: bool) -> str | None:
    """The format of a checkpoint that is quantized already, where the catalogue knows it."""
    from planner.catalog import models

    found = models.known(model, on_disk)
    if found is None:
        return None
    return found.weight_format or (found.model.quantization.weight_format if found.model.quantization else None)


def _has_experts(model: str, on_disk: bool) -> bool:
    from planner.catalog import models

    found = models.known(model, on_disk)
    return found is not None and found.model.has_experts


def _vllm(raw: Raw, values: dict[str, Value], on_disk: bool) -> None:
    _serving(raw, values, on_disk)
    tp, dp = (_whole(name, raw.get(name, "1")) for name in ("tp", "dp"))
    expert_parallel = "ep" in raw
    if dp > 1 and (expert_parallel or _has_experts(str(values.get("model", "")), on_disk)):
        # vLLM joins the data-parallel ranks of a mixture of experts into one group; attention stays per rank
        values |= {"tp": tp * dp, "attention_dp": dp}
    else:
        values |= ({"tp": tp} if "tp" in raw else {}) | ({"dp": dp} if "dp" in raw else {})
    if expert_parallel:
        values["ep"] = tp * dp
    if "lora" in raw:
        values.setdefault("max_loras", 1)
        values.setdefault("lora_rank", 16)
    if "speculative" in raw:
        _speculative(raw["speculative"], values)
    if "limits" in raw and not _images_allowed(raw["limits"]):
        values["images_per_request"] = 0


def _images_allowed(limits: str) -> bool:
    """Whether limits of items per prompt leave any image or video: {"image": 2, "video": 0}, or image=2,video=0."""
    if limits.lstrip().startswith("{"):
        found = parse_json(limits.encode(), "--limit-mm-per-prompt")
    else:
        found = dict(pair.partition("=")[::2] for pair in limits.split(","))
    return not isinstance(found, dict) or str(found.get("image")) != "0" or str(found.get("video", 0)) != "0"


def _speculative(text: str, values: dict[str, Value]) -> None:
    config = parse_json(text.encode(), "--speculative-config")
    if not isinstance(config, dict):
        raise BadValue(f"--speculative-config {shown(text)} is not a JSON object")
    for key, column in (("model", "draft_model"), ("num_speculative_tokens", "speculative_tokens")):
        value = value_of(column, config.get(key))
        if value is not None:
            values[column] = value
    method = str(config.get("method", ""))
    if "draft_model" not in values and method:
        values["draft_model"] = "mtp" if method.endswith(("mtp", "nextn")) else method[:80]


def _sglang(raw: Raw, values: dict[str, Value], on_disk: bool) -> None:
    """Any all-to-all backend spreads the experts over all GPUs; DeepEP's normal mode takes no CUDA graph."""
    _serving(raw, values, on_disk)
    names = [name for name in ("tp", "dp", "ep") if raw.get(name, "true") != "true"]
    values |= {name: _whole(name, raw[name]) for name in names}
    exchange = raw.get("exchange", "none")
    if raw.get("ep") == "true" or exchange != "none":
        values["ep"] = values.get("tp", 1)
    if (exchange, raw.get("deepep")) == ("deepep", "normal"):
        values["enforce_eager"] = True
    if "attention_dp" in raw and "dp" in values:
        values["attention_dp"] = values.pop("dp")


def _llama_cpp(raw: Raw, values: dict[str, Value], on_disk: bool) -> None:
    if "file" in raw or "hub" in raw:
        _gguf_model(raw, values, on_disk)
    slots = max(_whole("parallel_slots", raw["slots"]), 1) if "slots" in raw else 1
    if "slots" in raw:
        values["parallel_slots"] = slots
    if "context" in raw and _whole("max_model_len", raw["context"]) > 0:
        values["max_model_len"] = _whole("max_model_len", raw["context"]) // slots  # -c is shared by all slots
    if "k" in raw or "v" in raw:
        pair = [_llama_type(raw.get(side, "f16")) for side in ("k", "v")]
        values["kv_format"] = pair[0] if pair[0] == pair[1] else "/".join(pair)
    if raw.get("layers", "all") not in ("all", "auto", "-1") and _whole("n_gpu_layers", raw["layers"]) < ALL_LAYERS:
        values["n_gpu_layers"] = _whole("n_gpu_layers", raw["layers"])
    if raw.get("flash", "auto") != "auto":
        values["flash_attention"] = raw["flash"] in ("on", "1", "true", "enabled")
    if backend := backend_named(raw.get("devices", "")):
        values["backend"] = backend
    _split(raw, values)


def _llama_type(name: str) -> str:
    return {"f16": "fp16", "f32": "fp32"}.get(name.lower(), name.lower())


def _split(raw: Raw, values: dict[str, Value]) -> None:
    """Layers over GPUs are pipeline stages, rows are tensor parallelism; unequal shares keep their column."""
    shares = [part for part in re.split(r"[,/]", raw.get("shares", "")) if part]
    count = len(shares) or len([part for part in raw.get("devices", "").split(",") if part])
    if count > 1 and raw.get("split") != "none":
        values["tp" if raw.get("split") in ("row", "tensor") else "pp"] = count
    if len(set(shares)) > 1:
        values["tensor_split"] = ",".join(shares)


def _gguf_model(raw: Raw, values: dict[str, Value], on_disk: bool) -> None:
    """Model and format from a file name (`...-Q4_K_M.gguf`) or a hub id with its tag (`user/repo:Q4_K_M`)."""
    hub, _, tag = raw.get("hub", "").partition(":")
    path = raw.get("file", "")
    if on_disk and path and not hub and Path(path).exists():
        values["model"] = path
        return
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", Path(path).name.removesuffix(".gguf"))
    found = _GGUF_TYPE.search(stem)
    values["model"] = hub or (stem[: found.start()] if found else stem)
    kind = tag or (found[1] if found else "")
    if (
        hub and not kind and _own_format(hub, on_disk) != "mxfp4"
    ):  # repositories of MXFP4 releases hold what was released
        kind = "Q4_K_M"  # what -hf downloads unless told
    if kind:
        values["weight_format"] = f"gguf-{kind.lower().removeprefix('ud-')}"


_FINISH: Mapping[str, Callable[[Raw, dict[str, Value], bool], None]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "llama.cpp": _llama_cpp,
    "tensorrt-llm": _serving,
}
