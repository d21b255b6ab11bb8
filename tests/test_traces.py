from __future__ import annotations

import io

import pytest

from planner.catalog import traces
from planner.catalog.traces import parse_trace, read_trace
from planner.errors import BadFile


def parsed(text: str, most: int = 10):
    return parse_trace(io.BytesIO(text.encode()), "trace.csv", most)


def test_a_trace_is_read_in_the_order_of_its_times() -> None:
    found = parsed("output_tokens,time_s,input_tokens\n10,2.5,100\n\n20,1,200\n")
    assert [column.tolist() for column in found] == [[1.0, 2.5], [200.0, 100.0], [20.0, 10.0]]


def test_only_the_first_requests_are_read_when_so_many_are_asked_for() -> None:
    assert len(parsed("time,input,output\n0,1,1\n1,1,1\nnot,read,any more\n", most=2).time_s) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time,input,output\n-1,5,5\n", "line 2: time '-1'"),
        ("time,input,output\n0,1,1\nnan,5,5\n", "line 3: time 'nan'"),
        ("time,input,output\n0,0,5\n", "line 2: input '0'"),
        ("time,input,output\n0,5,0\n", "line 2: output '0'"),
        ("time,input,output\n0,5.5,5\n", "line 2: input '5.5'"),
        ("time,input,output\n0,5,inf\n", "line 2: output 'inf'"),
        ("time,input,output\n0,5\n", "line 2: 2 cells"),
        ("time,prompt,output\n0,5,5\n", "no column 'input'"),
        ("time,input,input_tokens,output\n0,5,5,5\n", "twice column 'input'"),
        ("time,input,output\n", "no request"),
        ("", "no column 'time'"),
        ("time,input,output\n0,1,\0\n", "line 2: not a line"),
        ("time,input,output\n" + "1" * 20_000, "line 2: not a line"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(text: str, says: str) -> None:
    with pytest.raises(BadFile, match=says.replace("(", r"\(")):
        parsed(text)


def test_a_trace_longer_than_what_is_kept_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(traces, "MAX_ROWS", 3)
    with pytest.raises(BadFile, match="more than 3 requests"):
        parsed("time,input,output\n" + "0,1,1\n" * 4)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes(b"time,input,output\n\xff\xfe,1,1\n")
    for name, says in (("none.csv", "no such file"), ("t.csv", "line 2: not UTF-8")):
        with pytest.raises(BadFile, match=says):
            read_trace(tmp_path / name)
