"""`planner import-model` and the models of paths and uploads, end to end."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.catalog.headers.hub import import_repository
from planner.catalog.models import from_upload, model, resolve
from planner.cli.main import run
from planner.errors import BadFile, PlannerError
from planner.formats import tensor_bytes
from planner.params import parameters
from planner.specs.scenario import Scenario
from planner.units import GIB
from tests.header_files import (
    LLAMA,
    LLAMA_METADATA,
    gguf_bytes,
    llama_shapes,
    llama_tensors,
    safetensors_bytes,
    safetensors_header,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of a tiny Llama."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    data = safetensors_bytes(safetensors_header(llama_shapes()), data=True)
    (tmp_path / "model.safetensors").write_bytes(data)
    return tmp_path


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A GGUF file of a tiny Llama."""
    file = tmp_path / "tiny.Q4_K_M.gguf"
    file.write_bytes(gguf_bytes(LLAMA_METADATA, llama_tensors(), data=True))
    return file


def imported(source: Path | str, capsys: Capture) -> dict[str, Any]:
    """The command's JSON."""
    assert run(["import-model", str(source), "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def weights_bytes(name: str, gpu: str = "rtx4090") -> float:
    """Weights of an estimate on one GPU."""
    from planner.estimate import estimate

    row = estimate([Scenario(model=name, gpu=gpu, engine="none")]).rows()[0]
    assert not row["error"]
    return float(row["weights_gib"]) * GIB


def test_a_folders_weights_are_those_of_its_files(folder: Path) -> None:
    assert weights_bytes(str(folder)) == 2 * parameters(model(str(folder)))


def test_a_gguf_files_weights_are_its_tensors(gguf_file: Path, capsys: Capture) -> None:
    assert weights_bytes(str(gguf_file)) == imported(gguf_file, capsys)["stored_bytes"]


def test_blank_weight_format_is_the_files_own(gguf_file: Path, folder: Path) -> None:
    assert resolve(str(gguf_file)).weight_format == "gguf-q4_k_m"
    assert resolve(str(folder)).weight_format == "bf16"


def test_a_gguf_file_runs_in_llama_cpp(gguf_file: Path, capsys: Capture) -> None:
    assert run(["estimate", "--model", str(gguf_file), "--gpu", "rtx4090", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)[0]
    assert (said["engine"], said["weight_format"], said["error"]) == ("llama.cpp", "gguf-q4_k_m", None)


def test_the_written_spec_reads_back_as_the_model(gguf_file: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "spec.json"
    assert run(["import-model", str(gguf_file), "--out", str(out)]) == 0
    assert resolve(str(out)).model == resolve(str(gguf_file)).model
    assert resolve(str(out)).weight_format == "gguf-q4_k_m"
    assert weights_bytes(str(out)) == weights_bytes(str(gguf_file))


def test_a_spec_that_was_tampered_with_names_the_field(gguf_file: Path, tmp_path: Path) -> None:
    spec = model(str(gguf_file)).model_dump(mode="json") | {"hidden_size": -1}
    out = tmp_path / "spec.json"
    out.write_text(json.dumps(spec))
    with pytest.raises(BadFile, match=r"spec\.json: not a model spec: hidden_size"):
        resolve(str(out))


def test_classes_add_up_to_the_file(folder: Path, capsys: Capture) -> None:
    said = imported(folder, capsys)
    total = said["classes"][-1]
    assert total["class"] == "all"
    assert total["bytes"] == said["stored_bytes"] == sum(row["bytes"] for row in said["classes"][:-1])
    assert total["parameters"] == said["parameters"]


def test_differences_to_the_bundled_architecture_are_named(tmp_path: Path, capsys: Capture) -> None:
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert imported(tmp_path, capsys)["differences"] == []
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}))
    differences = imported(tmp_path, capsys)["differences"]
    assert [(item["field"], item["here"], item["bundled"]) for item in differences] == [
        ("layer 0 mixer.n_kv_heads", "4", "8")
    ]


def test_people_read_a_table(folder: Path, capsys: Capture) -> None:
    assert run(["import-model", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "stored bytes" in said
    assert "attention" in said


def test_classes_go_to_csv(folder: Path, capsys: Capture) -> None:
    assert run(["import-model", str(folder), "--csv", "-"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "class,parameters,bytes,gib,bits_per_parameter"


def test_a_truncated_file_is_one_line_on_standard_error(gguf_file: Path, capsys: Capture) -> None:
    gguf_file.write_bytes(gguf_file.read_bytes()[:500])
    for command in (["import-model", str(gguf_file)], ["estimate", "--model", str(gguf_file), "--gpu", "rtx4090"]):
        assert run(command) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {gguf_file}: ")
        assert said.count("\n") == 1


def test_a_safetensors_file_needs_its_config_beside_it(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(BadFile, match=r"no config\.json beside it"):
        resolve(str(folder / "model.safetensors"))
    with pytest.raises(BadFile, match=r"no config\.json beside it"):
        resolve(str(folder))


def test_a_config_without_weights_still_gives_the_architecture(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert model(str(folder)).exact is None


def test_uploads_are_told_apart_by_what_they_hold(gguf_file: Path, folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()[:6000]
    config = (folder / "config.json").read_bytes()
    assert from_upload("upload", config).exact is None
    assert from_upload("upload", gguf_file.read_bytes()[:10_000]) == model(str(gguf_file)).model_copy(
        update={"id": "upload", "source": "upload"}
    )
    assert from_upload("upload", weights, config).exact == model(str(folder)).exact


def test_an_uploaded_header_is_recognized_by_its_tensors() -> None:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (151936, 1024), "model.norm.weight": (1024,)}
    for layer in range(28):
        inner = {"q": (2048, 1024), "k": (1024, 1024), "v": (1024, 1024), "o": (1024, 2048)}
        shapes |= {f"model.layers.{layer}.self_attn.{name}_proj.weight": size for name, size in inner.items()}
        shapes |= {f"model.layers.{layer}.self_attn.{name}_norm.weight": (128,) for name in "qk"}
        shapes |= {f"model.layers.{layer}.mlp.{name}_proj.weight": (3072, 1024) for name in ("gate", "up")}
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (1024, 3072)
        names = ("input_layernorm", "post_attention_layernorm")
        shapes |= {f"model.layers.{layer}.{name}.weight": (1024,) for name in names}
    found = from_upload("upload", safetensors_bytes(safetensors_header(shapes)))
    assert found.id == "Qwen/Qwen3-0.6B"
    assert found.exact is not None
    assert found.exact.total_bytes == 2 * parameters(found)


def test_an_uploaded_header_that_fits_no_bundled_model_asks_for_the_config() -> None:
    with pytest.raises(
        PlannerError, match=r"upload: no bundled model has these tensors; give the model's config\.json"
    ):
        from_upload("upload", safetensors_bytes(safetensors_header(llama_shapes())))


def served(files: dict[str, bytes]) -> Callable[[str, int], bytes | None]:
    """A hub that holds these files and answers with as many bytes as were asked for."""
    return lambda name, size: files[name][:size] if name in files else None


def test_a_repository_is_read_by_its_headers(folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = import_repository("owner/tiny", served(files))
    assert found.model.exact == model(str(folder)).exact


def test_a_long_header_of_a_repository_is_asked_for_again() -> None:
    header = safetensors_header(llama_shapes()) | {"__metadata__": {"note": "x" * 2**21}}
    files = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": safetensors_bytes(header)}
    found = import_repository("owner/tiny", served(files))
    assert found.stored_bytes == 2 * parameters(found.model)


def test_a_repository_without_safetensors_says_what_to_do() -> None:
    with pytest.raises(BadFile, match="owner/tiny: no safetensors files there"):
        import_repository("owner/tiny", served({"config.json": json.dumps(LLAMA).encode()}))


def test_without_a_network_a_repository_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    pytest.importorskip("huggingface_hub")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert run(["import-model", "owner/tiny"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: owner/tiny: config.json cannot be read from the hub")
    assert said.err.count("\n") == 1
    assert "hf_secret" not in said.err + said.out


def test_names_that_no_repository_can_have_never_reach_the_network(capsys: Capture) -> None:
    for name in ("nothing", "a/b/c", "../etc", "a/" + "b" * 97, "a b/c", "https://huggingface.co/a/b", "a/.."):
        assert run(["import-model", name]) == 2
        assert "neither a path nor a repository" in capsys.readouterr().err


def test_loading_differs_from_the_file_by_what_the_closed_form_says(folder: Path) -> None:
    from planner.catalog.formats import weight_format

    fmt = weight_format("gptq-int4-g128")
    spec = model(str(folder))
    assert spec.exact is not None
    exact = spec.exact.model_copy(update={"weight_format": fmt.id})
    as_gptq = spec.model_copy(update={"exact": exact})
    plain = spec.model_copy(update={"exact": None})
    change = tensor_bytes(plain, fmt, resident=True) - tensor_bytes(plain, fmt)
    assert change.sum() < 0  # the order index and the zero points go
    assert list(tensor_bytes(as_gptq, fmt, resident=True) - tensor_bytes(as_gptq, fmt)) == pytest.approx(list(change))
