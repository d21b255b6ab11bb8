"""What to run on what: `recommend(load, space, wish)` ranks every valid combination and says why the others fail."""

from __future__ import annotations

from planner.search.fewest import Fewest, smallest_count
from planner.search.judge import Judged, judge
from planner.search.process import follow_parent
from planner.search.recommend import Recommendation, judged, merged, recommend, tasks
from planner.search.sift import sift
from planner.search.usual import default_formats
from planner.specs.wish import RankBy, Space, Weights, Wish

__all__ = [
    "Fewest",
    "Judged",
    "RankBy",
    "Recommendation",
    "Space",
    "Weights",
    "Wish",
    "default_formats",
    "follow_parent",
    "judge",
    "judged",
    "merged",
    "recommend",
    "sift",
    "smallest_count",
    "tasks",
]
