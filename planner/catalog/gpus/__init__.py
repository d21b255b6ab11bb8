"""Accelerators: by id, by the name a driver reports, by a person's name for it, as a slice, or from a file."""

from planner.catalog.gpus.lookup import gpu, gpu_from_profile, gpu_ids, profile

__all__ = ["gpu", "gpu_from_profile", "gpu_ids", "profile"]
