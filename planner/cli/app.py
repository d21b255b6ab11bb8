"""`planner app`: the calculator in the browser, with the production settings."""

from __future__ import annotations

import os
import socket
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from planner.catalog.paths import PACKAGE
from planner.errors import BadFile, BadValue

LOOPBACK = "127.0.0.1"
VISITOR_UPLOAD_MB = 2


def app(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = LOOPBACK,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name by which browsers reach it, when not localhost; repeatable."),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Endpoint that visitors of a network may have checked; repeatable."),
    ] = None,
) -> None:
    """Open the calculator on http://localhost:8501."""
    page, settings = pages(), production_settings()
    _check_free(host, port)
    server = settings["server"]
    if endpoint:
        from planner.quality.runner import checked_url

        os.environ["PLANNER_ENDPOINTS"] = " ".join(checked_url(url, "--endpoint") for url in endpoint)
    if host != LOOPBACK or allowed_host:
        server["maxUploadSize"] = VISITOR_UPLOAD_MB
    server |= {"port": port, "address": host, "allowedHosts": [*server["allowedHosts"], *(allowed_host or [])]}
    print(f"Calculator on http://{'localhost' if host == LOOPBACK else host}:{port} (Ctrl-C ends it)", file=sys.stderr)
    from streamlit.web.cli import main as streamlit

    streamlit.main(["run", str(page), *arguments(settings)], prog_name="planner app", standalone_mode=False)


def _check_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise BadValue(f"cannot listen on {host} port {port}: {error.strerror}; another port: --port N") from None


def pages() -> Path:
    """The script that serves the pages: inside the installed package, beside it in a checkout."""
    for folder in (PACKAGE / "app", PACKAGE.parent / "app"):
        for name in ("server.py", "main.py"):
            if (folder / name).is_file():
                return folder / name
    raise BadFile(f"{PACKAGE / 'app'}: the pages of the calculator are missing; reinstall the planner")


def production_settings() -> dict[str, dict[str, Any]]:
    """The settings of `.streamlit/config.toml` as shipped."""
    folder = pages().parent
    for path in (folder / ".streamlit" / "config.toml", folder.parent / ".streamlit" / "config.toml"):
        if path.is_file():
            return tomllib.loads(path.read_text("utf-8"))
    raise BadFile(f"{folder}: the settings of the calculator are missing; reinstall the planner")


def arguments(settings: Mapping[str, Any], prefix: str = "--") -> list[str]:
    """Settings as Streamlit's flags, which win over any configuration of the user's own."""
    return list(_arguments(settings, prefix))


def _arguments(settings: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _arguments(value, f"{prefix}{name}.")
        else:
            for item in value if isinstance(value, list) else [value]:
                yield f"{prefix}{name}={str(item).lower() if isinstance(item, bool) else item}"
