"""Run the code of an answer against the reference's asserts: a process of its own with limits.

The limits keep a runaway answer from hurting (time, memory, size of files, no environment, a folder that goes away, and
no network where the system lets a process give it up); they are no sandbox. Code that a model wrote runs with the
user's rights, and may read what the user may, so this runs only when asked.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile

MEMORY_BYTES = 1 << 30
FILE_BYTES = 16 << 20
OPEN_FILES = 64
NO_NETWORK, NEW_USER = 0x40000000, 0x10000000  # CLONE_NEWNET; without rights to it, in a user namespace of its own

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
# The proof is read before the answer's code runs and said only after the last assert: leaving early proves nothing.
_HARNESS = """
import ctypes, os, resource, sys
unshare = getattr(ctypes.CDLL(None), "unshare", None)
if unshare and unshare(NO_NETWORK):
    unshare(NO_NETWORK | NEW_USER)
for limit, most in zip(("CPU", "AS", "FSIZE", "NOFILE", "CORE"), map(int, sys.argv[1:6])):
    resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (most, most))
code, tests, proof = sys.stdin.read().split("\\0")
said = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
names = {"__name__": "answer"}
exec(compile(code, "answer", "exec"), names)
exec(compile(tests, "tests", "exec"), names)
os.write(said, proof.encode())
""".replace("NO_NETWORK", str(NO_NETWORK)).replace("NEW_USER", str(NEW_USER))


def code_of(output: str) -> str:
    """The code in an answer: its fenced blocks together, or all of it."""
    blocks = _FENCE.findall(output)
    return "\n".join(blocks) if blocks else output


def unit_tests_pass(output: str, tests: str, timeout_s: float) -> bool:
    """Whether the reference's asserts run through after the answer's code, within the limits."""
    proof = secrets.token_hex(16)
    program = "\0".join((code_of(output).replace("\0", ""), tests.replace("\0", ""), proof))
    limits = (int(timeout_s) + 1, MEMORY_BYTES, FILE_BYTES, OPEN_FILES, 0)
    with tempfile.TemporaryDirectory(prefix="quality-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _HARNESS, *map(str, limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(program.encode("utf-8", "replace"), timeout=timeout_s)
            return said.decode("ascii", "replace") == proof
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # children it left behind, too
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
