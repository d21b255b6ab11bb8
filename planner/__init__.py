"""LLM VRAM and throughput capacity planner: which model, at which precision, fits and serves a load, how fast."""
