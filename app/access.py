"""Whose browser this is: the user's own machine, or a network whose visitors this server must not act for.

A visitor who may type an address makes the server ask it, behind the server's firewall and with the server's keys.
So visitors of a network choose from the addresses that the operator has named, and nothing else.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from urllib.parse import urlsplit

import streamlit as st

ENDPOINTS = "PLANNER_ENDPOINTS"  # addresses that visitors of a network may have asked, separated by spaces
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via")


def is_local() -> bool:
    """Whether only this machine can reach the server, and this visit came without a proxy."""
    listens = st.get_option("server.address")
    hosts = [listens, *_listed(st.get_option("server.allowedHosts")), _host(st.context.headers.get("Host"))]
    return all(map(is_loopback, hosts)) and not any(name in st.context.headers for name in FORWARDED)


def named_endpoints() -> tuple[str, ...]:
    """Addresses that the operator lets visitors use."""
    return tuple(os.environ.get(ENDPOINTS, "").split())


def is_loopback(host: str | None) -> bool:
    """Whether a name or address is this machine's own; None, as of a server that listens everywhere, is not."""
    if not host:
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host(header: str | None) -> str | None:
    return urlsplit(f"//{header}").hostname if header else None


def _listed(option: str | Sequence[str] | None) -> list[str]:
    return option.split(",") if isinstance(option, str) else list(option or ())
