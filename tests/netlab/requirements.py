"""Whether this machine can hold a laboratory, and if not, what it lacks."""

import functools
import os
from typing import Final

import pytest

from tests.netlab.lab import Lab
from tests.netlab.namespace import LabError, tool
from tests.netlab.nat import NatKind

__all__ = ["needs_lab", "what_is_missing"]

TOOLS: Final = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables"}


@functools.cache
def what_is_missing() -> str:
    """In a sentence; empty if nothing is. Tries what every laboratory uses, in 0.3 s."""
    if os.geteuid():
        return "The network laboratory needs root."
    if missing := [f"{name} (package {TOOLS[name]})" for name in TOOLS if not tool(name)]:
        return f"The network laboratory needs {', '.join(missing)}."
    try:
        with Lab() as lab:
            home = lab.home("home", NatKind.FULL_CONE, delay_ms=1, up="10mbit")
            home.cut()
    except (LabError, OSError) as error:
        if "syntax error" in str(error):
            raise  # that is a defect of ours, not something that the machine lacks
        return f"The kernel does not offer all that the network laboratory needs: {error}"
    return ""


needs_lab = pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing())
