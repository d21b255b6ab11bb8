"""Measuring a GPU: kernels, suite, timing, journal; and the fit of what was measured."""
