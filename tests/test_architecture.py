"""The shape of the code: who may import whom, what stays pure, how long things may get, what is never written."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports only what stands in an earlier line, or earlier in its own line.
LAYERS = (
    "units arrays identity errors specs params formats collectives memory ops roofline "
    "serving billing events training uncertainty",
    "workers catalog calibration.fit",
    "estimate finetuning",
    "quality explain search report accuracy simulation observe",
    "calibration",
    "cli __main__",
)
ORDER = [module for layer in LAYERS for module in layer.split()]
PURE = frozenset(LAYERS[0].split())
PURE_IMPORTS = frozenset(
    "__future__ bisect collections dataclasses difflib enum functools heapq itertools "
    "math numpy operator pydantic re statistics typing".split()
)
HEAVY = frozenset("pandas streamlit plotly torch transformers scipy".split())
# Numbers that a formula may hold without a name: small counts, a half, bits of a byte, per cent, a rounding guard.
PLAIN_NUMBERS = frozenset({0, 1, 2, 3, -1, 0.5, 8, 100, 1e-9})
RULES_OF_OTHERS = ("formats/gguf.py",)  # llama-quantize's own case distinctions, whose numbers have no other names
KERNELS = "planner/calibration/kernels/"  # the same names in every file: `problem.py` says what they do
VENDORS = {"NVIDIA", "AMD", "Apple", "Intel"}
NAMES = VENDORS | {path.stem for path in (ROOT / "planner" / "data" / "engines").glob("*.yaml")} - {"none"}
NAMING = (  # files that may name engines and vendors: what a GPU runs, what people expect by default, start lines, logs
    *("specs/gpu.py", "specs/formats.py"),
    *("estimate/defaults.py", "estimate/resolve.py", "estimate/logs.py"),
)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 6
NEVER = (
    "unsafe_" + "allow_html",  # script injection
    "import " + "pickle",  # runs what it reads
    "torch." + "load(",
    "trust_remote_code=" + "True",
    "TO" + "DO",
    "FIX" + "ME",
    "NotImplemented" + "Error",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def module_name(path: Path) -> str:
    """`calibration.fit` for itself, else the first name below `planner`."""
    parts = path.relative_to(ROOT / "planner").with_suffix("").parts
    return "calibration.fit" if parts[:2] == ("calibration", "fit") else parts[0]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            packages = base in ("planner", "planner.calibration")
            names = [f"{base}.{alias.name}" for alias in node.names] if packages else [base]
            yield from ((name, node.lineno) for name in names)


def planner_modules(path: Path) -> Iterator[tuple[str, int]]:
    for name, line in imports(path):
        if name.startswith("planner."):
            parts = name.split(".")[1:]
            yield ("calibration.fit" if parts[:2] == ["calibration", "fit"] else parts[0]), line


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def parameters(arguments: ast.arguments) -> list[ast.arg]:
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


PLANNER = [path for path in sources("planner") if path != ROOT / "planner" / "__init__.py"]


@pytest.mark.parametrize("path", PLANNER, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    own = module_name(path)
    assert own in ORDER, f"{own} has no place in the order"
    late = [
        f"line {line}: {name}"
        for name, line in planner_modules(path)
        if name in ORDER and name != own and ORDER.index(name) > ORDER.index(own)
    ]
    assert not late


@pytest.mark.parametrize(
    "path", [path for path in PLANNER if module_name(path) in PURE], ids=lambda path: str(path.relative_to(ROOT))
)
def test_formulas_read_and_write_nothing(path: Path) -> None:
    foreign = {name for name, _ in imports(path) if name.split(".")[0] not in PURE_IMPORTS | {"planner"}}
    called = (node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call))
    assert not foreign
    assert not {call.id for call in called if isinstance(call, ast.Name)} & {"open", "print", "input", "exec", "eval"}
    assert module_name(path) in ("specs", "errors") or "pydantic" not in {name for name, _ in imports(path)}


@pytest.mark.parametrize(
    "path",
    [p for p in PLANNER if module_name(p) in PURE - {"specs", "errors"} and not str(p).endswith(RULES_OF_OTHERS)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_numbers_in_formulas_have_names(path: Path) -> None:
    bodies = (node for function in functions(path) for statement in function.body for node in ast.walk(statement))
    numbers = {node.value for node in bodies if isinstance(node, ast.Constant) and isinstance(node.value, int | float)}
    assert numbers <= PLAIN_NUMBERS


@pytest.mark.parametrize(
    "path",
    [p for p in PLANNER if module_name(p) in PURE | {"estimate", "simulation"} and not str(p).endswith(NAMING)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_an_engine_or_a_gpu_is_asked_for_its_rules_not_for_its_name(path: Path) -> None:
    assert not {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)} & NAMES


@pytest.mark.parametrize("path", sources("planner", "app"), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MAX_FILE_LINES
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno}
    assert not {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES}


@pytest.mark.parametrize("path", sources("planner", "app"), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_public_names_say_what_they_are(path: Path) -> None:
    named = [node for node in tree(path).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    silent = [node.name for node in named if not node.name.startswith("_") and not ast.get_docstring(node)]
    assert ast.get_docstring(tree(path))
    assert not silent or str(path.relative_to(ROOT)).startswith(KERNELS)


@pytest.mark.parametrize("path", sources("planner", "app"), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_take_at_most_six_parameters(path: Path) -> None:
    counts = {f.name: len({a.arg for a in parameters(f.args)} - {"self", "cls"}) for f in functions(path)}
    assert not {name: count for name, count in counts.items() if count > MAX_PARAMETERS}


@pytest.mark.parametrize("path", sources("planner", "app"), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_dangerous_or_unfinished_is_written(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not [word for word in NEVER if word in text]


@pytest.mark.parametrize("path", sources("planner"), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_imported_inside_functions_only(path: Path) -> None:
    top = [node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & HEAVY


def test_the_command_line_starts_without_heavy_libraries() -> None:
    code = f"import sys, planner.cli; print(sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_top_level_holds_only_what_belongs_there() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    belongs = set(
        "app planner hardware_profiles calibration_runs tests docs pyproject.toml constraints.txt README.md LICENSE "
        "Makefile .ci .gitignore .streamlit".split()
    )
    assert {name.split("/")[0] for name in done.stdout.splitlines()} <= belongs


def dotted(path: Path) -> str:
    """The name that a file is imported by; the pages import each other from inside `app`."""
    home = ROOT / "app" if path.is_relative_to(ROOT / "app") else ROOT
    return ".".join(path.relative_to(home).with_suffix("").parts).removesuffix(".__init__")


def files_imported(path: Path, known: Collection[str]) -> Iterator[str]:
    """Files that a file names anywhere, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            found = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            yield from found or {node.module} & set(known)


def test_no_files_import_each_other_in_a_circle() -> None:
    files = {dotted(path): path for path in [*PLANNER, *sources("app")]}
    TopologicalSorter(
        {name: set(files_imported(path, files)) - {name} for name, path in files.items()}
    ).prepare()  # raises CycleError that names the circle


def test_no_module_has_been_forgotten_in_the_order() -> None:
    found = {module_name(path) for path in PLANNER}
    assert found <= set(ORDER)
