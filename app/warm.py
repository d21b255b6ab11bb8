"""Imported once for each server: what pages need is loaded, and then left out of garbage collection.

Streamlit collects garbage after every run of a page; what the libraries have allocated by then never becomes
garbage, and looking through it again and again would cost more than the pages themselves.
"""

from __future__ import annotations

import gc

import pandas
import plotly.graph_objects
import plotly.io
import plotly.tools

import answers
from defaults import first_scenario
from library import Library
from planner.estimate.breakdown import breakdown
from words import gpu_choices, model_choices

FIRST = answers.answer(first_scenario(), "hardware", Library({}, {}))
CHOICES = (gpu_choices(), model_choices())
CHART = plotly.graph_objects.Figure({"data": [{"type": "scatter"}, {"type": "bar"}], "layout": {"xaxis": {}}})
FRAME = pandas.DataFrame([FIRST.row])
breakdown(FIRST.scenario)
gc.collect()
gc.freeze()
