"""Imported once for each server: what pages need is loaded, and then left out of garbage collection.

Streamlit looks through everything for garbage after every run of a page, which costs more than many runs. What
the libraries have allocated by now never becomes garbage, and for the rest Python's own collector is enough.
"""

from __future__ import annotations

import contextlib
import gc
import threading

import pandas
import plotly.graph_objects
import plotly.io
import plotly.tools
import streamlit.config

import answers
from defaults import first_scenario
from planner.estimate import NO_LIBRARY
from planner.estimate.breakdown import breakdown
from words import gpu_choices, model_choices

TURN = threading.Lock()  # one run of a page at a time: runs that take turns are all done sooner than runs that mix
FIRST = answers.answer(first_scenario(), "hardware", NO_LIBRARY)
CHOICES = (gpu_choices(), model_choices())
CHART = plotly.graph_objects.Figure({"data": [{"type": "scatter"}, {"type": "bar"}], "layout": {"xaxis": {}}})
FRAME = pandas.DataFrame([FIRST.row])
breakdown(FIRST.scenario)
gc.collect()
gc.freeze()
with contextlib.suppress(RuntimeError):  # a setting that Streamlit does not document, and may drop
    streamlit.config.set_option("runner.postScriptGC", False)
