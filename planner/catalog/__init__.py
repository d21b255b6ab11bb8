"""Readers of everything from outside: models, GPUs, engines, formats, runs, scenarios."""
