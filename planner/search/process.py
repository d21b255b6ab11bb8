"""What a process of its own needs that works for a server."""

from __future__ import annotations

import multiprocessing
import os
import threading


def follow_parent() -> None:
    """End when the parent ends, however it ends."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
