"""Predictions beside measurements: rows, scores, tables."""
