"""Measured rows that ship, from folders of extracts: python tests/truth/make_rows.py EXTRACTS [OUT].

EXTRACTS holds serving.csv, serving_other.csv and single_stream.csv; OUT is planner/data/truth. Rows whose model,
GPU, format or protocol is not identified are counted by reason in excluded.csv. Same extracts, same files.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import other_rows  # noqa: E402
import serving_rows  # noqa: E402
import stream_rows  # noqa: E402
from common import ABOUT, MEASURED, SCENARIO, Cells, LeftOut, Row, distinct, read, written  # noqa: E402

from planner.catalog.files import write_atomically  # noqa: E402

CONVERTERS: tuple[tuple[str, Callable[[Row], Cells]], ...] = (
    ("serving", serving_rows.convert),
    ("serving_other", other_rows.convert),
    ("single_stream", stream_rows.convert),
)


def converted(path: Path, convert: Callable[[Row], Cells]) -> tuple[list[Cells], Counter[str]]:
    """Committed rows of one extract, and what was left out by reason."""
    rows: list[Cells] = []
    reasons: Counter[str] = Counter()
    for row in read(path):
        try:
            rows.append(convert(row))
        except LeftOut as left:
            reasons[str(left)] += 1
    kept = distinct(rows)
    if convert is serving_rows.convert:
        kept = serving_rows.without_repeats(kept)
    if len(kept) < len(rows):
        reasons["repeats another row"] = len(rows) - len(kept)
    return kept, reasons


def csv_of(header: list[str], rows: list[list[str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def main(extracts: Path, out: Path) -> None:
    excluded = []
    for name, convert in CONVERTERS:
        rows, reasons = converted(extracts / f"{name}.csv", convert)
        used = {column for row in rows for column, value in row.items() if value is not None}
        header = [column for column in (*SCENARIO, *MEASURED, *ABOUT) if column in used]
        write_atomically(out / f"{name}.csv", csv_of(header, [[written(row.get(c)) for c in header] for row in rows]))
        excluded += [[name, reason, str(count)] for reason, count in sorted(reasons.items())]
    write_atomically(out / "excluded.csv", csv_of(["file", "reason", "rows"], excluded))


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2] / "planner" / "data" / "truth"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else here)
