"""Files from outside are bounded before they are parsed, and written whole or not at all."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.catalog.files import MAX_DEPTH, parse_json, parse_yaml, read_bytes, read_json, write_atomically
from planner.errors import BadFile

HOSTILE_JSON = {
    "nested brackets": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "not a number": b'{"a": NaN}',
    "infinity": b'{"a": 1e999}',
    "negative infinity": b'{"a": -Infinity}',
    "a key twice": b'{"a": 1, "a": 2}',
    "a number of many digits": b"1" * 5_000,
    "cut off": b'{"a": ',
    "nothing": b"",
    "a zip archive": b"PK\x03\x04rest",
    "not UTF-8": b'{"a": "\xff"}',
}
HOSTILE_YAML = {
    "aliases": b"a: &x [1]\nb: *x",
    "an alias bomb": b"a: &a [x,x]\n" + b"".join(b"%c: &%c [*%c,*%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 120)),
    "tags": b"a: !!python/object/apply:os.system [ls]",
    "nesting": b"[" * 5_000,
    "a key twice": b"a: 1\na: 2",
    "infinity": b"a: 1e999",
    "a tab": b"a:\n\t- b",
    "a gzip archive": b"\x1f\x8b\x08",
}


@pytest.mark.parametrize("data", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_json_is_one_clear_line(data: bytes) -> None:
    with pytest.raises(BadFile) as refused:
        parse_json(data, "x.json")
    assert str(refused.value).startswith("x.json: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("data", HOSTILE_YAML.values(), ids=HOSTILE_YAML)
def test_hostile_yaml_is_one_clear_line(data: bytes) -> None:
    with pytest.raises(BadFile) as refused:
        parse_yaml(data, "x.yaml")
    assert str(refused.value).startswith("x.yaml: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [HOSTILE_JSON["nested brackets"], HOSTILE_JSON["nested objects"]])
def test_a_refusal_costs_little_memory(data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(BadFile):
        parse_json(data)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 50e6


def test_yaml_scalars_follow_the_json_rules() -> None:
    assert parse_yaml(b"a: 3.35e12\nb: no\nc: 1:30\nd: 007\ne: ~\nf: true\ng: 1_000") == {
        "a": 3.35e12,
        "b": "no",
        "c": "1:30",
        "d": 7,
        "e": None,
        "f": True,
        "g": "1_000",
    }


def test_brackets_inside_strings_are_not_nesting() -> None:
    assert parse_json(b'{"a": "' + b"[" * 1000 + b'"}') == {"a": "[" * 1000}


def test_nesting_up_to_the_limit_is_read() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(BadFile, match="nested deeper"):
        parse_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_a_byte_order_mark_is_accepted() -> None:
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_document_or_a_clear_refusal(data: bytes) -> None:
    for parse in (parse_json, parse_yaml):
        try:
            parse(data)
        except BadFile as error:
            assert "\n" not in str(error)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 11)
    assert read_bytes(tmp_path / "big", 11) == b"x" * 11
    with pytest.raises(BadFile, match="more than the 10"):
        read_bytes(tmp_path / "big", 10)


@pytest.mark.parametrize("name", ["missing", ".", "a\0b", "x" * 5000])
def test_what_is_not_a_file_is_said_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadFile):
        read_json(str(tmp_path) + "/" + name)


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.csv", "one\r\n")
    write_atomically(tmp_path / "a.csv", "two\r\n")
    assert (tmp_path / "a.csv").read_bytes() == b"two\r\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a.csv", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("planner.catalog.files.os.fsync", full)
    with pytest.raises(BadFile, match="No space left"):
        write_atomically(tmp_path / "a.csv", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_the_user_s_own_file_mode_is_kept(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_atomically(tmp_path / "whole", "x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_links_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "x"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", "y")
    assert os.read(reader, 10) == b"y"
    os.close(reader)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for bad in (tmp_path / "no" / "a.csv", tmp_path, tmp_path / ("x" * 300), f"{tmp_path}/a\0b"):
        with pytest.raises(BadFile, match="cannot be written"):
            write_atomically(bad, "x")


@pytest.mark.parametrize("data", [b'["' + b'\\"' * 1_000_000, b'["' + b'\\"' * 1_000_000 + b"\\"])
def test_a_string_that_never_closes_is_scanned_once(data: bytes) -> None:
    with pytest.raises(BadFile, match="Unterminated string"):  # quadratic, this would take hours
        parse_json(data)
