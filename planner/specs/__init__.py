"""Frozen records of what comes from outside."""
