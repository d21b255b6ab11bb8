"""The wheel: everything that the planner needs travels inside `planner/`, and works away from the checkout."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCENARIO = "--model llama-3.1-8b-instruct --gpu h100-sxm --concurrency 8".split()


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel, and this environment's libraries behind it."""
    home = tmp_path_factory.mktemp("home") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(home)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = (home / "lib").glob("python*/site-packages")
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site / "libraries.pth").write_text("\n".join(sorted(paths)))
    return home


def away(home: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STREAMLIT"))}
    command = [str(home / "bin" / program), *arguments]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_holds_everything_under_planner(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"planner"}
    for wanted in ("app/main.py", "app/.streamlit/config.toml", "hardware_profiles/h100-sxm.yaml", "data/support.yaml"):
        assert f"planner/{wanted}" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("planner/tests")]


def test_the_base_needs_no_torch(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert not [need for need in project["dependencies"] if need.startswith(("torch", "nvidia", "transformers"))]
    pins = (root / "constraints.txt").read_text()
    assert "http" not in pins.replace("httpcore", "").replace("httpx", "")
    assert not [line for line in pins.splitlines() if line.startswith(("torch", "nvidia", "triton"))]


def test_the_installed_program_estimates_as_the_checkout_does(root: Path, installed: Path) -> None:
    there = json.loads(away(installed, "planner", "estimate", *SCENARIO, "--json").stdout)
    here = subprocess.run(
        [sys.executable, "-m", "planner", "estimate", *SCENARIO, "--json"], cwd=root, capture_output=True, check=True
    )
    assert there == json.loads(here.stdout)


def test_the_installed_lists_have_their_data(installed: Path) -> None:
    for command in ("models", "gpus", "formats", "engines"):
        assert len(json.loads(away(installed, "planner", command, "--json").stdout)) >= 6


def test_the_installed_pages_run(installed: Path) -> None:
    code = (
        "from planner.cli.app import pages; from streamlit.testing.v1 import AppTest;"
        "page = AppTest.from_file(str(pages().with_name('main.py')), default_timeout=60).run();"
        "assert 'site-packages' in str(pages()); assert not page.exception, page.exception"
    )
    away(installed, "python", "-c", code)


@pytest.fixture
def served(installed: Path) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [str(installed / "bin" / "planner"), "app", "--port", str(port)]
    server = subprocess.Popen(program, cwd=installed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        assert f"http://localhost:{port}" in server.stderr.readline()
        yield port
    finally:
        server.terminate()
        server.wait(timeout=20)
        server.stderr.close()


def status(port: int, path: str, **headers: str) -> int:
    for _ in range(100):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.putrequest("GET", path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            return connection.getresponse().status
        except ConnectionError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise AssertionError(f"port {port} does not answer")


def handshake(port: int, host: str, origin: str) -> int:
    """Status of a browser's request for the page's websocket."""
    key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Version": "13"}
    return status(port, "/_stcore/stream", Host=host, Origin=origin, Connection="Upgrade", Upgrade="websocket", **key)


def test_the_installed_app_serves_itself_and_nobody_else_s_page(served: int) -> None:
    own = f"localhost:{served}"
    assert status(served, "/_stcore/health") == status(served, "/") == 200
    assert handshake(served, own, f"http://{own}") == 101
    assert handshake(served, own, "http://other.example") == 403
    assert handshake(served, "other.example", "http://other.example") == 403
