"""How quick the page is: `python -m tests.benchmarks.page [sessions] [seconds]`.

Prints figures, asserts none. First a visitor alone in Chromium: cold load until the verdict and the charts
stand, from a key on a slider until the new text stands, from page to page. Then many sessions at once, each
moving a slider about every three seconds over its own websocket, until the server has answered.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PORT = 8597
URL = f"http://127.0.0.1:{PORT}/"
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
MOVES = 40
EVERY_S = 3.0
OPENS_EVERY_S = 0.2
LOADS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def main(sessions: int = 50, seconds: float = 45.0) -> None:
    """Start a server, measure both, end it."""
    command = [sys.executable, "-m", "planner", "app", "--port", str(PORT)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        said(f"server ready after {started():.2f} s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        alone()
        before = processor_s(server.pid)
        crowd = asyncio.run(together(sessions, seconds))
        each = (processor_s(server.pid) - before) / (len(crowd.times) + sessions) * 1e3
        said(f"processor time of a run {each:.0f} ms, of a page's first run too")
        said(f"memory of the server {resident_mib(server.pid):.0f} MiB after {sessions} sessions")
        said(f"{sessions} sessions, a move every {EVERY_S:g} s for {seconds:g} s:")
        said(f"  {spread(crowd.times)}, {crowd.wrong} wrong")
    finally:
        server.terminate()
        server.wait(timeout=20)


def said(text: str) -> None:
    """One line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def started() -> float:
    """Seconds until the server answers."""
    begun = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(URL + "_stcore/health", timeout=2):
                return time.monotonic() - begun
        except OSError:
            time.sleep(0.05)


def spread(times: list[float]) -> str:
    """Quantiles in ms."""
    cut = statistics.quantiles(times, n=100)
    parts = [f"p{at} {cut[at - 1] * 1e3:.0f}" for at in (50, 90, 95)]
    return f"n={len(times)}, {', '.join(parts)}, max {max(times) * 1e3:.0f} ms"


def alone() -> None:
    """One visitor in Chromium."""
    from playwright.sync_api import sync_playwright

    own = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(args=QUIET, executable_path=own)
        loads = []
        for _ in range(4):  # the first also starts the pages in the server
            context = browser.new_context(viewport={"width": 1400, "height": 900})
            page = context.new_page()
            begun = time.monotonic()
            page.goto(URL)
            page.locator('[data-testid="stAlert"]').first.wait_for()
            verdict = time.monotonic() - begun
            page.locator('[data-testid="stPlotlyChart"]').nth(1).locator(".xtick text").first.wait_for()
            loads.append((verdict, time.monotonic() - begun))
        for name, at in (("verdict", 0), ("charts", 1)):
            shown = ", ".join(f"{load[at]:.2f}" for load in loads)
            said(f"cold load to the {name}: {shown} s")
        said(f"slider to new text: {spread(moves(page))}")
        times = []
        for name in ("Compare", "Calculator") * 3:
            begun = time.monotonic()
            page.get_by_role("link", name=name).click()
            page.get_by_text("What to compare" if name == "Compare" else "GPU memory, each of").first.wait_for()
            times.append(time.monotonic() - begun)
        said(f"from page to page: {', '.join(f'{t:.2f}' for t in times)} s")
        browser.close()


CHANGED = "text => document.querySelector('[data-testid=stAlert]').innerText !== text"


def moves(page: Any) -> list[float]:
    """Seconds from a key on the slider to another text of the verdict."""
    slider = page.get_by_role("slider", name="Requests at once")
    box = page.locator('[data-testid="stAlert"]').first
    times = []
    for number in range(MOVES):
        before = box.inner_text()
        begun = time.monotonic()
        slider.press("ArrowRight" if number % 12 < 6 else "ArrowLeft")
        page.wait_for_function(CHANGED, arg=before, polling=5)
        times.append(time.monotonic() - begun)
        page.wait_for_timeout(500)
    return times


class Crowd:
    """What the sessions saw together."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.wrong = 0


async def together(sessions: int, seconds: float) -> Crowd:
    """Many sessions, each with its own websocket."""
    crowd = Crowd()
    begin = time.monotonic() + sessions * OPENS_EVERY_S
    span = begin + EVERY_S, begin + EVERY_S + seconds
    await asyncio.gather(*(visitor(crowd, span, number * OPENS_EVERY_S) for number in range(sessions)))
    return crowd


async def visitor(crowd: Crowd, span: tuple[float, float], wait: float) -> None:
    """Open the page with a prompt of one's own; when all are there, move the slider. Wrong answers count."""
    import websockets
    from streamlit.proto.BackMsg_pb2 import BackMsg

    await asyncio.sleep(wait)
    where = URL.replace("http", "ws") + "_stcore/stream"
    kind: Any = {"subprotocols": ["streamlit"], "origin": URL.rstrip("/"), "max_size": None}
    async with websockets.connect(where, **kind) as socket:
        message = BackMsg()
        message.rerun_script.query_string = f"v=1&n_gpus=2&gpu=h100-sxm&input_tokens={1000 + round(wait * 100)}"
        seen = await run(socket, message)
        slider = seen.slider
        chance = random.Random(wait)
        await asyncio.sleep(max(span[0] - time.monotonic(), 0))
        while time.monotonic() < span[1]:
            await asyncio.sleep(chance.uniform(0.5, 1.5) * EVERY_S)
            asked = chance.choice(LOADS)
            message = BackMsg()
            message.rerun_script.query_string = seen.query
            state = message.rerun_script.widget_states.widgets.add()
            state.id = slider
            state.string_array_value.data.append(str(asked))
            begun = time.monotonic()
            seen = await run(socket, message, seen.query)
            crowd.times.append(time.monotonic() - begun)
            found = re.search(r"([\d,]+) requests? (?:of|were)", seen.text)
            crowd.wrong += found is None or found[1] != str(asked)


class Seen(NamedTuple):
    """What a run has shown: the text of its alerts, the slider's id, the address."""

    text: str
    slider: str
    query: str


async def run(socket: Any, message: Any, query: str = "") -> Seen:
    """Send one run's message and read until it has finished."""
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    await socket.send(message.SerializeToString())
    text, slider = "", ""
    while True:
        answer = ForwardMsg()
        answer.ParseFromString(await asyncio.wait_for(socket.recv(), 30))
        kind = answer.WhichOneof("type")
        if kind == "delta" and answer.delta.WhichOneof("type") == "new_element":
            element = answer.delta.new_element
            text += element.alert.body.replace("\\", "") if element.HasField("alert") else ""
            if element.HasField("slider") and element.slider.label == "Requests at once":
                slider = element.slider.id
        if kind == "script_finished":
            return Seen(text, slider, query)
        if kind == "page_info_changed":
            query = answer.page_info_changed.query_string


def processor_s(process: int) -> float:
    """Processor time that a process has taken, s; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(process: int) -> float:
    """Memory of a process, MiB; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text("ascii")
    except OSError:
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:3]))
