"""Pages as Streamlit's own harness runs them: opened by a link, what they say, uploads to them."""

from __future__ import annotations

from pathlib import Path

from streamlit.testing.v1 import AppTest

APP = Path(__file__).resolve().parent.parent / "app"
PAGES = ("views/calculator.py", "views/recommend.py", "views/compare.py")
FINETUNING = "views/finetuning.py"
SIMULATION = "views/simulation.py"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}  # fmt: skip


def opened(script: str = PAGES[0], **query: str) -> AppTest:
    at = AppTest.from_file(str(APP / "main.py"), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    if script != PAGES[0]:
        at.switch_page(script).run()
    assert not at.exception, [item.stack_trace for item in at.exception]
    return at


def shown(at: AppTest) -> str:
    """All that alerts say, title and sentence."""
    kinds = (at.error, at.warning, at.success, at.info)
    return "\n".join(f"{item.proto.title} {item.value}" for kind in kinds for item in kind).replace("\\", "")


def uploaded(at: AppTest, key: str, name: str, data: bytes) -> AppTest:
    at.session_state["own"] = True
    at.run()
    at.file_uploader(key=key).set_value((name, data, "application/octet-stream")).run()
    return at
