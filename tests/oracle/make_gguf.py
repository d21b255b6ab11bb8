"""What llama.cpp's own converter makes of tiny models: the golden file that the reading of GGUF headers is checked
against.

    python tests/oracle/make_gguf.py LLAMA_CPP [--golden tests/golden/gguf.json]

LLAMA_CPP is a checkout of ggml-org/llama.cpp with its converter. The golden file holds a tiny config for each model;
transformers builds it with random weights and saves it, the converter turns it into GGUF, and what gguf-py reads of
that (metadata of the architecture; by type and shape the names of tensors and their layers) is written back beside
the config.
Needs torch and transformers; the test that reads the golden file needs neither.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

KEPT = ("general.architecture", "general.file_type")


def saved(config: dict[str, Any], folder: Path) -> None:
    """A random model of this config, saved as publishers do, with a vocabulary of placeholders."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    (folder / "config.json").write_text(json.dumps(config))
    settings = AutoConfig.from_pretrained(folder).get_text_config()
    encoder = config["architectures"][0].endswith("Model")
    with torch.no_grad():
        model = (AutoModel if encoder else AutoModelForCausalLM).from_config(settings).to(torch.float16)
        model.save_pretrained(folder)
    vocabulary = {f"token {index}": index for index in range(settings.vocab_size)}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": {"vocab": vocabulary}}))
    (folder / "tokenizer_config.json").write_text("{}")


def converted(folder: Path, out: Path) -> None:
    """The folder as a GGUF file, without a tokenizer."""
    import gguf

    conversion, base = (importlib.import_module(name) for name in ("conversion", "conversion.base"))
    settings = base.ModelBase.load_hparams(folder, False)
    architecture = base.get_model_architecture(settings, conversion.ModelType.TEXT)
    known = conversion.get_model_class(architecture, mmproj=False)
    nameless = {
        "set_vocab": lambda self: self.gguf_writer.add_tokenizer_model("none"),
        "model_arch": known.model_arch,
    }
    type(known.__name__, (known,), nameless)(folder, gguf.LlamaFileType.MOSTLY_F16, out, eager=True).write()


def read(file: Path) -> dict[str, Any]:
    """Metadata and tensors as gguf-py reads them."""
    import gguf

    reader = gguf.GGUFReader(file)
    stated = {name: field.contents() for name, field in reader.fields.items()}
    prefix = f"{stated['general.architecture']}."
    metadata = {key: value for key, value in stated.items() if key in KEPT or key.startswith(prefix)}
    layers: dict[str, dict[str, list[str]]] = {}
    for tensor in reader.tensors:
        shape = "x".join(str(int(size)) for size in reversed(tensor.shape))
        block, _, inner = tensor.name.removeprefix("blk.").partition(".")
        layer, name = (block, inner) if tensor.name.startswith("blk.") else ("", tensor.name)
        layers.setdefault(f"{tensor.tensor_type.name.lower()} {shape}", {}).setdefault(name, []).append(layer)
    tensors = {kind: {name: " ".join(held) for name, held in names.items()} for kind, names in layers.items()}
    return {"metadata": metadata, "tensors": tensors}


def main() -> None:
    """Convert every model of the golden file anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("--golden", type=Path, default=Path("tests/golden/gguf.json"))
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.llama_cpp / "gguf-py"), str(arguments.llama_cpp)]
    golden = json.loads(arguments.golden.read_text())
    for name, entry in golden["models"].items():
        with tempfile.TemporaryDirectory() as folder:
            saved(entry["config"], Path(folder))
            converted(Path(folder), Path(folder) / "out.gguf")
            entry |= read(Path(folder) / "out.gguf")
            print(name)
    lines = (f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in golden["models"].items())
    text = f'{{\n "source": {json.dumps(golden["source"])},\n "models": {{\n' + ",\n".join(lines) + "\n }\n}\n"
    arguments.golden.write_text(text)


if __name__ == "__main__":
    main()
