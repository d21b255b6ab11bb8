"""Other processes that take a share of long work.

    for found in mapped(function, items, usable()): ...

A worker is a Python of its own, started by its command and asked through a pipe. It imports what `function` needs and
never the script or the notebook that called, so nobody is asked for an `if __name__ == "__main__"`; and it ends when
its caller does, however that ends, because the pipe does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe, parent_process
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 4  # processes: each more takes half a second and 150 MB before it helps
NONE = subprocess.DEVNULL


def usable() -> int:
    """Processes that may share work: one for each processor of this process, up to MOST.

    1 in a process that shares work already, in a program without an interpreter of its own, and on Windows, where a
    command takes no pipe along.
    """
    if os.name != "posix" or parent_process() or not sys.executable or getattr(sys, "frozen", False):
        return 1
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(len(own), MOST)


def mapped(function: Callable[[Item], Result], items: Sequence[Item], processes: int) -> Iterator[Result]:
    """`function` of every item, in their order; this process takes the next item whenever the first is not done.

    A worker that does not start, or fails, leaves its item to this process, which then meets the fault itself.
    """
    shared = _Shared(len(items))
    for _ in range(min(processes, len(items)) - 1):
        threading.Thread(target=_help, args=(function, items, shared), daemon=True).start()
    try:
        for index in range(len(items)):
            while index not in shared.done:
                mine = shared.take(index)
                if mine is not None:
                    shared.give(mine, function(items[mine]))
            yield shared.done.pop(index)
    finally:
        shared.todo.clear()


class _Shared:
    """Which items nobody has taken, and what was found for others."""

    def __init__(self, n_items: int) -> None:
        self.todo, self.done = deque(range(n_items)), dict[int, Any]()
        self.changed = threading.Condition()

    def take(self, wanted: int | None = None) -> int | None:
        """The first item that is free. Where none is: wait until `wanted` is done or one is free again, else None."""
        with self.changed:
            if wanted is not None:
                self.changed.wait_for(lambda: self.todo or wanted in self.done)
            return self.todo.popleft() if self.todo else None

    def give(self, index: int, found: Any) -> None:
        """Say what an item gave."""
        with self.changed:
            self.done[index] = found
            self.changed.notify_all()

    def give_back(self, index: int) -> None:
        """Leave an item to others."""
        with self.changed:
            self.todo.appendleft(index)
            self.changed.notify_all()


def _help(function: Callable[[Any], Any], items: Sequence[Any], shared: _Shared) -> None:
    """Have a worker do items as long as one is free."""
    index = None
    try:
        with _worker() as pipe:
            pipe.send(function)
            pipe.recv()
            while (index := shared.take()) is not None:
                pipe.send(items[index])
                shared.give(index, pipe.recv())
    except Exception:  # whatever it is: this process meets it too, or goes on alone
        if index is not None:
            shared.give_back(index)


@contextmanager
def _worker() -> Iterator[Connection]:
    """A pipe to a new worker, which ends with it."""
    ours, theirs = Pipe()
    with theirs:
        code = f"import sys; sys.path[:] = {sys.path!r}; from planner.workers import work; work({theirs.fileno()})"
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=NONE, stdout=NONE, stderr=NONE)
    with process, ours:
        yield ours


def work(pipe_number: int) -> None:
    """What a worker runs: it gets a function, says that it has it, then does one item after the other."""
    with Connection(pipe_number) as pipe:
        function = pipe.recv()
        pipe.send(None)
        while True:
            try:
                item = pipe.recv()
            except EOFError:
                return
            pipe.send(function(item))
