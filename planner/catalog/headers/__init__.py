"""Headers of checkpoints, safetensors and GGUF, as model specs with exact bytes."""
