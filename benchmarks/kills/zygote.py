"""A process with torch and every shard in memory, which forks providers and heads in milliseconds.

    python -m benchmarks.kills.zygote SOCKET LOGS

It starts no thread and no event loop: only so is forking sound. Everything it forks dies with it,
and it with the harness, even where a SIGSTOP holds it.
"""

import ctypes
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import uvloop

from benchmarks.kills.channel import Message
from benchmarks.kills.shards import Shards, load_shards

__all__ = ["main"]

REAP_S: Final = 0.2
"""How often it looks for children that have ended."""
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class _Place:
    control: Path
    logs: Path
    shards: Shards


def main(control: str, logs: str) -> None:
    _die_with_parent()
    torch.set_num_threads(1)
    place = _Place(Path(control), Path(logs), load_shards())
    # the entries of children, imported once here
    from benchmarks.kills import head, provider, reference, wires

    roles: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "head": head.run, "provider": provider.run, "reference": reference.run, "wires": wires.run,
    }  # fmt: skip
    line = socket.socket(socket.AF_UNIX)
    line.connect(control)
    _tell(line, {"hello": "zygote"})
    gc.collect()
    gc.freeze()
    pending = b""
    while True:
        readable, _, _ = select.select([line], [], [], REAP_S)
        for pid in _reap():
            _tell(line, {"ended": pid})
        if not readable:
            continue
        data = line.recv(1 << 16)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for text in lines:
            order = json.loads(text)
            pid = os.fork()
            if pid == 0:
                line.close()
                _be(place, roles[order["role"]], order)
            _tell(line, {"answer_to": order["number"], "pid": pid})


def _be(place: _Place, run: Callable[..., Coroutine[Any, Any, None]], order: Message) -> None:
    """The child, from here to its end."""
    code = 1
    try:
        _die_with_parent()
        log = os.open(place.logs / f"{order['name']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        logging.basicConfig(
            level=order["log_level"], force=True,
            format=f"%(asctime)s.%(msecs)03d {order['life']} %(name)s: %(message)s",
            datefmt="%H:%M:%S",
        )  # fmt: skip
        uvloop.run(run(order, place.control, place.shards))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _tell(line: socket.socket, message: Message) -> None:
    line.sendall(json.dumps(message).encode() + b"\n")


def _reap() -> list[int]:
    """Children that have ended since it was asked last."""
    ended: list[int] = []
    try:
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.append(pid)
    except ChildProcessError:
        pass
    return ended


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
