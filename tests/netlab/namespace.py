"""One network namespace: made, entered, configured, emptied and removed, by `ip` and `nft`.

Everything of the laboratory stands in namespaces of its own, and none of them has a way to the
machine's real interfaces: no packet of a test can leave the machine.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

__all__ = ["NAMES", "LabError", "Namespace", "is_running", "tool"]

COMMAND_TIMEOUT_S: Final = 30  # of one `ip`, `tc` or `nft`; they take some milliseconds
EXIT_TIMEOUT_S: Final = 2.0  # a process left in a namespace has this long to go by itself
NAMES: Final = Path("/run/netns")
SBIN: Final = "/usr/sbin:/sbin:/usr/bin:/bin"  # not in every user's PATH

_CLONE_NEWNET: Final = 0x40000000
_NETLINK_NETFILTER: Final = 12
_libc: Final = ctypes.CDLL(None, use_errno=True)


class LabError(RuntimeError):
    """The laboratory cannot do that; the message says which command failed, or what to change."""


def tool(name: str) -> str | None:
    """Where a program of iproute2 or nftables is."""
    return shutil.which(name) or shutil.which(name, path=SBIN)


class Namespace:
    """The namespace of that name, which is unique on the machine."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def create(cls, name: str) -> "Namespace":
        """A new one, with loopback up."""
        _run([tool("ip") or "ip", "netns", "add", name])
        namespace = cls(name)
        namespace.ip("link set lo up")
        return namespace

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """This thread is in the namespace inside the block.

        A socket stays where it was made; threads and processes begun inside stay inside. Do not
        `await` in the block, unless no other task of the loop makes sockets meanwhile.
        """
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.open(NAMES / self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _set_namespace(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                _set_namespace(before)
        finally:
            os.close(before)

    def run(
        self, arguments: Sequence[str], *, text: str = "", check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """A tool inside, `text` being its standard input; raises LabError when it fails."""
        with self.enter():
            return _run([tool(arguments[0]) or arguments[0], *arguments[1:]], text, check)

    def ip(self, *lines: str, ipv6: bool = False) -> None:
        """Several `ip` commands at once, each a line without the word ip."""
        family = "-6" if ipv6 else "-4"
        self.run(["ip", family, "-batch", "-"], text="".join(f"{line}\n" for line in lines))

    def nft(self, rules: str, *, check: bool = True) -> None:
        """Load a ruleset; nft does all of it or nothing."""
        self.run(["nft", "-f", "-"], text=rules, check=check)

    def set_kernel(self, **settings: int) -> None:
        """Write /proc/sys/net; two underscores stand for a slash."""
        with self.enter():
            for key, value in settings.items():
                Path("/proc/sys/net", *key.split("__")).write_text(str(value))

    def forget_connections(self) -> None:
        """Empty connection tracking, so every NAT mapping is gone.

        As `conntrack -F`, by netlink: IPCTNL_MSG_CT_DELETE (1 << 8 | 2) without a tuple, as a
        request with acknowledgement (5); 20 bytes of header and nfgenmsg.
        """
        with self.enter():
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        with netlink:
            netlink.settimeout(COMMAND_TIMEOUT_S)
            netlink.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 5, 1, 0, 0, 0, 0))
            (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
        if error not in (0, -2):  # -ENOENT: there was nothing to forget
            raise LabError(f"Connection tracking of {self.name} was not emptied: errno {-error}.")

    def remove(self) -> None:
        """End what runs inside, then take the namespace away; idempotent."""
        if not (NAMES / self.name).exists():
            return
        for end in (signal.SIGTERM, signal.SIGKILL):
            if not (pids := self._pids()):
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, end)
            deadline = time.monotonic() + EXIT_TIMEOUT_S
            while time.monotonic() < deadline and any(is_running(pid) for pid in pids):
                time.sleep(0.01)
        _run([tool("ip") or "ip", "netns", "del", self.name], check=False)

    def _pids(self) -> list[int]:
        listed = _run([tool("ip") or "ip", "netns", "pids", self.name], check=False).stdout.split()
        return [int(pid) for pid in listed if int(pid) != os.getpid() and is_running(int(pid))]


def _run(
    arguments: Sequence[str], text: str = "", check: bool = True
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        arguments,
        input=text,
        text=True,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if check and done.returncode:
        raise LabError(f"`{' '.join(arguments)}` failed: {done.stderr.strip()}\n{text}".rstrip())
    return done


def _set_namespace(descriptor: int) -> None:
    # os.setns is there from Python 3.12 on
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def is_running(pid: int) -> bool:
    """Whether that process does anything any more; one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
