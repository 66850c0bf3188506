"""What our congestion control makes of a home uplink, beside aioquic's and the kernel's.

Network namespaces: a host behind a home router whose uplink is shaped by the kernel (tbf) and
delayed by a userspace wire that loses packets both ways; a receiver on the public side. Needs root.
Every cell of a table is measured in the same run, controllers in turn, because the machine is
seldom quiet. A share is what the application received over the rate of the line; headers leave
94.5 % of it to QUIC. The queue is what a small datagram waits beyond the shortest seen.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.row import Row
from tests.netlab.lab import Lab
from tests.netlab.node import Host
from tests.netlab.requirements import what_is_missing

__all__ = ["rows"]

ROOT = Path(__file__).parent.parent
ROUNDS = 3
SECONDS = 6.0
BESIDE_S = 24.0
CONTROLS = (
    ("quic", "home"),
    ("quic", "reno"),
    ("quic", "cubic"),
    ("tcp", "cubic"),
    ("tcp", "bbr"),
)
MARKS = {
    (20, 40, 0.0): ">= 85 %",
    (20, 40, 0.5): ">= 85 %",
    (20, 40, 1.0): ">= 80 %",
    (5, 40, 0.5): ">= 85 %",
    (50, 20, 0.5): ">= 80 %",
    (20, 100, 0.5): ">= 75 %",
}


@dataclass(frozen=True, slots=True)
class Line:
    mbit: float
    rtt_ms: float
    loss_percent: float = 0.0
    buffer_bdp: float = 1.0

    def __str__(self) -> str:
        return (
            f"{self.mbit:g} Mbit/s, {self.rtt_ms:g} ms, {self.loss_percent:g} % loss, "
            f"buffer {self.buffer_bdp:g} BDP"
        )


class Flow:
    """One sender in the home and its receiver outside."""

    def __init__(self, near: Host, far: Host, kind: str, control: str, seconds: float) -> None:
        self._receiver = _child(far, f"receive-{kind}", far.ip)
        port = _line(self._receiver)
        self._sender = _child(near, f"send-{kind}", control, far.ip, port, seconds)

    def finish(self) -> None:
        output = self._sender.communicate()[0].split("\n")
        self.began, (self.ended, self.cpu_s) = float(output[0]), map(float, output[1].split())
        time.sleep(0.3)
        self._receiver.terminate()
        lines = self._receiver.communicate()[0].splitlines()
        self._counts = [(float(at), int(count)) for at, count in map(str.split, lines)]

    def rate(self, start: float, end: float) -> float:
        """Mbit/s received between two times of the clock."""
        return 8e-6 * (self._until(end) - self._until(start)) / (end - start)

    def _until(self, when: float) -> float:
        """Between two reports, in proportion."""
        before = (0.0, 0)
        for after in self._counts:
            if after[0] >= when:
                share = (when - before[0]) / (after[0] - before[0])
                return before[1] + share * (after[1] - before[1])
            before = after
        return before[1]


def rows() -> Iterable[Row]:
    """Takes about fifteen minutes; no rows where there can be no laboratory."""
    if missing := what_is_missing():
        print(f"transport_wan was left out. {missing}", file=sys.stderr)
        return []
    measured: list[Row] = []
    for (mbit, rtt_ms, loss), mark in MARKS.items():
        controls = CONTROLS if (mbit, rtt_ms) == (20, 40) else CONTROLS[:1]
        measured += _alone(Line(mbit, rtt_ms, loss), controls, mark)
    measured += _beside(Line(20, 40, buffer_bdp=5), ("tcp", "cubic"), ">= 33 %")
    measured += _beside(Line(20, 40, buffer_bdp=5), ("quic", "home"), "")
    busy = os.getloadavg()[2]
    measured.append(
        Row("load of the machine, 15 minutes", f"{os.cpu_count()} cores, ours included", busy, "")
    )
    return measured


def _alone(line: Line, controls: Sequence[tuple[str, str]], mark: str) -> list[Row]:
    shares: dict[str, list[float]] = {}
    queues: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for kind, control in controls:
            name = f"{kind} {control}"
            with laboratory(line) as (near, far), probing(near, far, SECONDS + 2) as waits:
                flow = Flow(near, far, kind, control, SECONDS)
                flow.finish()
            share = 100 * flow.rate(flow.began, flow.began + SECONDS) / line.mbit
            shares.setdefault(name, []).append(share)
            queues.setdefault(name, []).append(waits(flow.began, flow.ended))
            print(f"{name} [{line}] {share:.1f} %", file=sys.stderr)
    rows = []
    for name, measured in shares.items():
        is_ours = name == "quic home"
        rows.append(_row(f"{name}: share", line, measured, "%", mark if is_ours else ""))
        queue_mark = "<= 10 ms" if is_ours else ""
        rows.append(_row(f"{name}: median queue", line, queues[name], "ms", queue_mark))
    return rows


def _beside(line: Line, other: tuple[str, str], mark: str) -> list[Row]:
    """The other flow begins first; ours joins two seconds later; then the two change places."""
    rows, ours_kind = [], ("quic", "home")
    for first, second in dict.fromkeys(((other, ours_kind), (ours_kind, other))):
        shares, queues = [], []
        for _ in range(ROUNDS):
            with laboratory(line) as (near, far), probing(near, far, BESIDE_S + 4) as waits:
                flows = [Flow(near, far, *first, BESIDE_S + 2)]
                time.sleep(2)
                flows.append(Flow(near, far, *second, BESIDE_S))
                for flow in flows:
                    flow.finish()
            start, end = flows[1].began, min(flow.ended for flow in flows)
            ours = flows[0] if first != other else flows[1]
            shares.append(100 * ours.rate(start, end) / line.mbit)
            queues.append(waits(start, end))
            print(f"beside {other} {shares[-1]:.1f} %", file=sys.stderr)
        name = f"beside {' '.join(other)}, which began {'first' if first == other else 'second'}"
        rows.append(_row(f"{name}: our share", line, shares, "%", mark))
        rows.append(_row(f"{name}: median queue", line, queues, "ms", ""))
    return rows


def _row(figure: str, line: Line, values: Sequence[float], unit: str, mark: str) -> Row:
    spread = f"{min(values):.3g}-{max(values):.3g}"
    return Row(figure, str(line), median(values), unit, mark, spread)


@contextmanager
def laboratory(line: Line) -> Iterator[tuple[Host, Host]]:
    """A host behind a router whose uplink is `line`, and a public host."""
    with Lab(pool="global") as lab:
        far = lab.public("far")
        home = lab.home(
            "home",
            "none",
            up=f"{line.mbit:g}mbit",
            delay_ms=line.rtt_ms / 2,
            loss=line.loss_percent / 100,
            queue_ms=line.rtt_ms * line.buffer_bdp,
        )
        yield home.host("near"), far


@contextmanager
def probing(near: Host, far: Host, seconds: float) -> Iterator["Waits"]:
    answering = _child(far, "answer-probes", far.ip)
    asking = _child(near, "probe", far.ip, _line(answering), seconds)
    waits = Waits()
    yield waits
    waits.found = json.loads(asking.communicate()[0])
    answering.terminate()
    answering.communicate()


class Waits:
    """How long small datagrams waited in the queue, beyond the shortest round trip seen."""

    found: list[tuple[float, float]]

    def __call__(self, start: float, end: float) -> float:
        """The median between two times, in ms."""
        shortest = min(rtt for _, rtt in self.found)
        return 1000 * median(rtt - shortest for at, rtt in self.found if start <= at <= end)


def _child(host: Host, role: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "benchmarks.transport_wan_child", role, *arguments]
    return host.popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
