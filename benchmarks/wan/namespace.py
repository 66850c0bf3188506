"""A network namespace of our own, where loopback has public addresses.

On 127.0.0.1 a host believes itself on a LAN: it would not pace, and send large datagrams. Addresses
of 198.18.0.0/15, which RFC 2544 sets aside for benchmarks, make it behave as across the Internet.
Nothing in a namespace leads out of it, so nothing else on the machine is touched.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = [
    "PEERS_MAX",
    "PORT",
    "enter",
    "front_of",
    "home_of",
    "run_inside",
    "what_is_missing",
]

PEERS_MAX: Final = 16
"""Addresses made ready; a route of more hops tells nothing new."""

PORT: Final = 4001
"""The same everywhere: nobody else is here."""

ROOT: Final = Path(__file__).parents[2]


def home_of(peer: int) -> str:
    """Where peer `peer` really listens; nobody but the lines may know."""
    return f"198.18.0.{peer + 1}"


def front_of(peer: int) -> str:
    """Where the others find it: an address of the lines."""
    return f"198.18.1.{peer + 1}"


def run_inside(module: str, arguments: Sequence[str], *, timeout_s: float) -> str:
    """Run `python -m module` in a new namespace; its stdout. Raises CalledProcessError."""
    command = [*_unshare(), sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True
    )
    return done.stdout


def enter() -> None:
    """Once inside: raise loopback and give it every address of a bed."""
    script = ["link set lo up"]
    for peer in range(PEERS_MAX):
        script += [f"addr add {host}/32 dev lo" for host in (home_of(peer), front_of(peer))]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(script), text=True, check=True)


def what_is_missing() -> str:
    """Why there can be no namespace here, in a sentence; empty if nothing is missing."""
    for tool, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(tool) is None:
            return f"The measuring bed needs {tool} (package {package})."
    tried = subprocess.run(
        [*_unshare(), "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"The measuring bed needs a network namespace: {tried.stderr.strip()}"
    return ""


def _unshare() -> list[str]:
    """Root makes one at once; others where the kernel lets them be root in a user namespace."""
    if os.geteuid() == 0:
        return ["unshare", "--net"]
    return ["unshare", "--user", "--map-root-user", "--net"]
