"""The program as people and scripts meet it: exit codes, one line for what is wrong, strict JSON and CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import planner
from planner.catalog import models
from planner.catalog.logs import MAX_BYTES
from planner.catalog.values import columns
from planner.cli import output
from planner.cli.main import run
from planner.cli.reference import document
from planner.estimate import estimate_columns

ONE = "estimate --model llama-3.1-8b-instruct --gpu h100-sxm".split()


class Done(NamedTuple):
    code: int
    out: str
    err: str


Program = Callable[..., Done]


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    def call(*arguments: str) -> Done:
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A batch with a bad row among good ones."""
    path = tmp_path / "plan.csv"
    path.write_text(
        "name,model,gpu,concurrency\n"
        "a,llama-3.1-8b-instruct,h100-sxm,8\n"
        "=cmd()|x,llama-3.1-8b-instruct,h10,8\n"
        "c,llama-3.1-8b-instruct,rtx4090,0\n"
        "d,llama-3.1-8b-instruct,rtx4090,1\n"
    )
    return path


def test_one_scenario_is_answered_for_people(program: Program) -> None:
    done = program(*ONE)
    assert done.code == 0 and done.err == ""
    assert "Memory of each GPU, GiB" in done.out and "\x1b[" not in done.out


def test_json_is_a_list_of_objects_with_every_column(program: Program) -> None:
    (answer,) = json.loads(program(*ONE, "--json").out, parse_constant=pytest.fail)
    assert set(columns()) | set(estimate_columns()) <= set(answer)


def test_the_three_doors_give_the_same_estimate(program: Program) -> None:
    scenario = planner.Scenario(model="llama-3.1-8b-instruct", gpu="h100-sxm")
    (here,) = planner.estimate(scenario).rows()
    (there,) = json.loads(program(*ONE, "--json").out)
    (cells,) = csv.DictReader(io.StringIO(program(*ONE, "--csv", "-").out))
    assert here == there
    assert float(cells["tpot_ms"]) == here["tpot_ms"] and set(cells) == set(here)


def test_what_does_not_fit_is_an_answer(program: Program) -> None:
    done = program(*"estimate --model llama-3.1-70b-instruct --gpu rtx4090 --json".split())
    assert done.code == 0
    assert json.loads(done.out)[0]["verdict"] == "no"


def test_a_grid_has_a_row_per_point(program: Program) -> None:
    done = program(*ONE, "--concurrency", "1:8:x2", "--weight-format", "bf16,fp8", "--json")
    assert [(row["weight_format"], row["concurrency"]) for row in json.loads(done.out)] == [
        (weights, concurrency) for weights in ("bf16", "fp8") for concurrency in (1, 2, 4, 8)
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("estimate --model llama-3.1-8b-instruct --gpu h10", "did you mean 'h100"),
        ("estimate --model lama-3.1-8b-instruct --gpu h100-sxm", "did you mean"),
        ("estimate --modle x --gpu h100-sxm", "--model"),
        ("estimate --model x --gpu", "--gpu"),
        ("estimate", "model"),
        ("estimat", "estimate"),
        ("estimate --model llama-3.1-8b-instruct --gpu h100-sxm --concurrency -3", "concurrency -3 is below 1"),
        ("estimate --model llama-3.1-8b-instruct --gpu h100-sxm --gpu-memory-utilization nan", "not a number"),
        ("estimate --model llama-3.1-8b-instruct --gpu h100-sxm --require holds", "holds_load"),
        ("estimate --model llama-3.1-8b-instruct --gpu h100-sxm --json --csv -", "standard output"),
        ("estimate --model llama-3.1-8b-instruct --gpu h100-sxm --csv no/such/folder.csv", "cannot be written"),
        ("estimate --scenarios no.csv", "no such file"),
        ("estimate --scenarios no.csv --model x", "put the columns into the file"),
        ("estimate --from-command", "--from-command"),
        ("gpus h10", "did you mean"),
        ("models lama-3.1-8b", "did you mean"),
        ("formats fp9", "did you mean"),
        ("engines vlm", "did you mean 'vllm'"),
        ("schema scenari", "did you mean 'scenario'"),
        ("app --port 99999", "port"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(program: Program, arguments: str, says: str) -> None:
    done = program(*arguments.split())
    assert done.code == 2 and done.out == ""
    assert says in done.err and done.err.count("\n") == 1


def test_an_empty_or_hostile_value_stays_on_one_line(program: Program) -> None:
    done = program("estimate", "--model", "a\nb\x1b[31m", "--gpu", "h100-sxm")
    assert done.code == 2
    assert done.err.count("\n") == 1 and "\x1b" not in done.err


def test_a_bad_row_of_a_batch_stops_no_other(program: Program, plan: Path) -> None:
    done = program("estimate", "--scenarios", str(plan), "--json")
    rows = json.loads(done.out)
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert "line 3" in rows[1]["error"] and "line 4: concurrency 0 is below 1" in rows[2]["error"]
    assert done.code == 2 and "2 of 4" in done.err and done.err.count("\n") == 1


def test_a_file_with_one_bad_row_still_has_its_row(program: Program, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"model": "nobody", "gpu": "h100-sxm"}')
    done = program("estimate", "--scenarios", str(tmp_path / "one.jsonl"), "--json")
    assert done.code == 2 and "unknown model" in json.loads(done.out)[0]["error"]
    assert program("estimate", "--scenarios", str(tmp_path / "one.jsonl")).code == 2


def test_csv_out_reads_back_and_runs_nothing(program: Program, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert program("estimate", "--scenarios", str(plan), "--csv", str(out)).out == ""
    rows = list(csv.DictReader(io.StringIO(out.read_text("utf-8"))))
    assert [row["name"] for row in rows] == ["a", "'=cmd()|x", "c", "d"]
    assert len({len(row) for row in rows}) == 1 and float(rows[0]["weights_gib"]) > 0


@pytest.mark.parametrize("to_file", [True, False])
def test_a_long_csv_written_in_parts_is_the_same(
    program: Program, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to_file: bool
) -> None:
    def exported() -> tuple[str, int, str]:
        out = tmp_path / "out.csv"
        done = program("estimate", "--scenarios", str(plan), "--csv", str(out) if to_file else "-")
        return out.read_bytes().decode() if to_file else done.out, done.code, done.err

    whole = exported()
    monkeypatch.setattr("planner.cli.estimate.LONG_CSV", 2)
    monkeypatch.setattr(
        sys.modules["planner.estimate.batch"], "GROUP_ROWS", 2
    )  # one part ends with a row that cannot be read
    assert exported() == whole and whole[1] == 2


def test_a_failed_run_leaves_the_old_file(program: Program, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    program("estimate", "--model", "nobody", "--gpu", "h100-sxm", "--csv", str(tmp_path / "out.csv"))
    assert (tmp_path / "out.csv").read_text() == "old"


def test_a_requirement_decides_the_exit_code(program: Program) -> None:
    assert program(*ONE, "--concurrency", "1", "--require", "holds_load").code == 0
    unmet = program(*ONE, "--concurrency", "1,100000", "--require", "fits, holds_load")
    assert unmet.code == 3
    assert unmet.err == "not met: holds_load in 1 of 2 scenarios\n"


def test_a_start_line_is_a_scenario_and_flags_add_the_load(program: Program) -> None:
    line = "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-num-seqs 64 --brand-new 1"
    done = program("estimate", "--from-command", line, "--gpu", "h100-sxm", "--concurrency", "4", "--json")
    (row,) = json.loads(done.out)
    assert (row["engine"], row["max_num_seqs"], row["concurrency"]) == ("vllm", 64, 4)
    assert done.err == "note: not considered: --brand-new\n" and done.code == 0


def test_a_switch_needs_no_value(program: Program) -> None:
    for spelt, value in ("--enforce-eager", True), ("--no-enforce-eager", False), ("--enforce-eager no", False):
        (row,) = json.loads(program(*ONE, *spelt.split(), "--json").out)
        assert row["enforce_eager"] is value


def test_every_column_is_a_flag(program: Program) -> None:
    text = program("estimate", "--help").out
    assert not [name for name in columns() if f"--{name.replace('_', '-')}" not in text]


@pytest.mark.parametrize("width", [60, 80, 120, 200, 210, 225, 400])
def test_no_table_breaks_a_word_however_narrow_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(output, "console", lambda: Console(file=out, width=width))
    rows = [{"model": "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", "on": "2 replicas × tp 4", "tok/s": 1027.4}] * 2
    wide = {f"figure{n}": 12345.6 for n in range(8)}
    output.show_table({name: name for name in rows[0] | wide}, [row | wide for row in rows])
    assert out.getvalue().count(rows[0]["model"]) == 2
    assert out.getvalue().count("replicas") == 2
    assert out.getvalue().count("12,346") == 16
    assert all(len(line) <= width for line in out.getvalue().splitlines())


def test_a_comparison_shows_what_was_asked_not_what_follows_from_it(program: Program) -> None:
    done = program(*ONE[:3], "--gpu", "h100-sxm,rtx4090", "--concurrency", "1,2")
    heading = done.out.strip().splitlines()[0]
    assert heading.split()[:3] == ["gpu", "concurrency", "verdict"]


def test_a_log_of_days_is_compared_by_its_start(program: Program, tmp_path: Path) -> None:
    start = (
        "INFO [core.py:107] Initializing a V1 LLM engine (v0.11.0) with config: model='Qwen/Qwen3-8B'\n"
        "INFO Model loading took 15.27 GiB\n"
    )
    log = tmp_path / "server.log"
    log.write_text(start + "INFO 200 OK\n" * (MAX_BYTES // 12))
    done = program("compare-log", str(log), "--gpu", "h100-sxm", "--json")
    assert done.code == 0 and done.err.startswith("note: ")
    assert [row["measured"] for row in json.loads(done.out)] == [15.27]


def test_a_list_of_the_catalogue_is_never_cut(program: Program) -> None:
    listed = program("models").out
    assert all(f" {name} " in listed for name in models.model_ids())


@pytest.mark.parametrize("command", ["models", "gpus", "formats", "engines"])
def test_a_list_shows_one_entry_with_its_figures(program: Program, command: str) -> None:
    entries = json.loads(program(command, "--json").out)
    identity = entries[0]["id"]
    shown = program(command, identity)
    assert shown.code == 0 and len(shown.out.splitlines()) > 5
    assert next(csv.reader(io.StringIO(program(command, "--csv", "-").out))) == list(entries[0])


def test_a_gpu_is_shown_with_its_sources(program: Program) -> None:
    assert "datasheet" in program("gpus", "h100-sxm").out


def test_the_schemas_hold_every_column(program: Program) -> None:
    schemas = json.loads(program("schema").out)
    assert set(schemas["scenario"]["properties"]) == set(columns())
    assert set(estimate_columns()) <= set(schemas["estimate"]["items"]["properties"])
    assert json.loads(program("schema", "profile").out) == schemas["profile"]


def test_help_and_version_are_answers(program: Program) -> None:
    assert program("--version").out == f"{planner.__version__}\n"
    assert program().code == program("--help").code == program("gpus", "-h").code == 0


def test_the_reference_is_the_program_s_own_help(root: Path) -> None:
    assert (root / "docs" / "cli.md").read_text("utf-8") == document(), "run: make docs"


def process(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "planner", *arguments], **options)  # type: ignore[call-overload, no-any-return]


def test_standard_input_is_read_and_sniffed() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    for text in b"model,gpu\nllama-3.1-8b-instruct,t4\n", b'{"model": "llama-3.1-8b-instruct", "gpu": "t4"}':
        with process("estimate", "--scenarios", "-", "--json", **pipes) as running:
            out, _ = running.communicate(text)
        assert running.returncode == 0 and json.loads(out)[0]["error"] is None


def test_a_reader_that_leaves_early_is_no_error() -> None:
    with process("gpus", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 141


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_is_quiet() -> None:
    import fcntl
    import struct
    import termios

    with process("estimate", "--scenarios", "-", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdin.write(b"model,gpu\n" + b"\n" * (1 << 20))  # more than a pipe holds: by now it reads
        while struct.unpack("i", fcntl.ioctl(running.stdin, termios.FIONREAD, b"0000"))[0]:
            time.sleep(0.05)
        time.sleep(0.3)  # now it waits for more
        running.send_signal(signal.SIGINT)
        assert running.stderr.read() == b""
    assert running.returncode == 130


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "planner", *ONE], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output: ") and done.stderr.count("\n") == 1


def test_a_terminal_without_unicode_gets_its_answer() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "planner", *ONE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stderr == "" and "tokens/s" in done.stdout


def test_the_largest_load_is_in_the_unit_of_the_load(program: Program) -> None:
    assert "most requests at once without a growing queue" in program(*ONE).out
    assert "most users without a growing queue" in program(*ONE, "--users", "20", "--think-time-s", "5").out
    assert "most requests at once that meet the objectives" in program(*ONE, "--ttft-slo-ms", "500").out


def test_an_engine_version_that_is_not_known_is_said(program: Program) -> None:
    done = program(*ONE, "--engine-version", "banana")
    assert done.code == 0 and "'banana' cannot be parsed; taken as" in done.err
    assert program(*ONE, "--engine-version", "0.11.0").err == ""


def test_a_fault_of_the_planner_is_one_line_too(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANNER_TRACEBACK", raising=False)
    monkeypatch.setattr("planner.cli.estimate.scenarios_from_flags", lambda _: 1 / 0)
    done = program("estimate", "--model", "x")
    assert done.code == 1 and "ZeroDivisionError" in done.err and done.err.count("\n") == 1
    monkeypatch.setenv("PLANNER_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run(["estimate", "--model", "x"])


def test_accuracy_is_counted_over_the_measured_rows(program: Program) -> None:
    rows = json.loads(program("accuracy", "--by", "part", "--json").out)
    assert {"files", "engine memory"} <= {row["part"] for row in rows}
    assert all(row["rows"] > 0 and row["median"] >= 0 for row in rows)
    assert "out_of_weights" in program("accuracy").out  # rows without an answer, by reason
    assert program("accuracy", "--by", "nothing").code == 2


VALUES = (
    "0 1 -1 2 7 64 1e9 65536 0.5 nan inf x =1 1:4:x2 a,b fp8 gguf-q4_k_m q8_0/q4_0 fp8/ : h100-sxm:2g.20gb "
    "9999999 true no rerank embed ../x . ~ mixed-4 exl3- none vllm sglang llama.cpp mlx 0.01 t4 b200 m3-max"
).split()
MODELS = ("llama-3.1-8b-instruct", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3", "Qwen/Qwen3-Embedding-0.6B")


@given(
    model=st.sampled_from(MODELS),
    flags=st.dictionaries(st.sampled_from(sorted(set(columns()) - {"model"})), st.sampled_from(VALUES), max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_any_flags_are_an_answer_or_one_line(model: str, flags: dict[str, str]) -> None:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in ({"gpu": "h100-sxm"} | flags).items()]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["estimate", "--model", model, *arguments, "--json"])
    assert code in (0, 2), err.getvalue()
    faults = [line for line in err.getvalue().splitlines() if not line.startswith("note: ")]
    assert len(faults) == (1 if code else 0)
    assert not out.getvalue() or json.loads(out.getvalue(), parse_constant=pytest.fail)
