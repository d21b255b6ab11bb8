"""Files of examples and answers, as tests write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def lines(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
