"""A bottleneck in virtual time: senders, one FIFO queue, delay, loss; no I/O, no real clock.

Senders are anything with aioquic's congestion control methods, so its own cubic can be the other
flow. Times are seconds, sizes bytes, rates bytes a second.
"""

import heapq
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

from transport.congestion.controller import CongestionController
from transport.congestion.pacing import Pacer

__all__ = ["SIZE", "Link", "Network", "Sender", "mbit"]

SIZE = 1200
ACK_DELAY_S = 0.005
TIMER_S = 0.001


def mbit(rate: float) -> float:
    return rate * 1e6 / 8


@dataclass
class Link:
    rate: float
    rtt: float
    buffer_bdp: float = 1.0
    loss: float = 0.0
    reorder_s: float = 0.0

    @property
    def bdp(self) -> float:
        return self.rate * self.rtt

    @property
    def buffer(self) -> float:
        return max(self.buffer_bdp * self.bdp, 10 * SIZE)


class StockPacing:
    """What a kernel does: window over smoothed round trip, times 1.25."""

    def __init__(self, sender):
        self.sender = sender

    @property
    def pacing_rate_bytes_s(self):
        sender = self.sender
        return 1.25 * sender.control.congestion_window / sender.srtt if sender.srtt else None


class Sender:
    def __init__(self, network, control, start=0.0, stop=float("inf"), demand=float("inf")):
        self.network, self.control = network, control
        self.start, self.stop, self.demand = start, stop, demand
        self.is_ours = isinstance(control, CongestionController)
        self.pacer = Pacer(control if self.is_ours else StockPacing(self), datagram_bytes=SIZE)
        self.srtt = 0.0
        self.sent = {}
        self.number = 0
        self.largest_acked = -1
        self.delivered = 0
        self.delivered_at = []  # (time, cumulative bytes)
        self.lost = 0
        self.timer_at = None
        self.ack_pending = None

    def window(self):
        return self.control.window_bytes if self.is_ours else self.control.congestion_window

    def pump(self, now):
        if not self.start <= now < self.stop:
            return
        control = self.control
        while True:
            if self.delivered + control.bytes_in_flight >= self.demand:
                break
            if control.bytes_in_flight + SIZE > self.window():
                return
            at = self.pacer.next_send_time(now)
            if at is not None:
                if self.timer_at is None or at < self.timer_at:
                    self.timer_at = at
                    self.network.at(max(at, now + TIMER_S), self.on_timer)
                return
            packet = SimpleNamespace(sent_time=now, sent_bytes=SIZE, number=self.number)
            self.number += 1
            self.sent[packet.number] = packet
            control.on_packet_sent(packet=packet)
            self.pacer.update_after_send(now)
            self.pacer.settle(now, SIZE)
            self.network.enqueue(self, packet, now)
        if self.is_ours:
            control.mark_app_limited()

    def on_timer(self, now):
        self.timer_at = None
        self.pump(now)

    def on_arrival(self, now, packet):
        if self.ack_pending is None:
            self.ack_pending = []
            self.network.at(now + ACK_DELAY_S, self.send_ack)
        self.ack_pending.append(packet)

    def send_ack(self, now):
        packets, self.ack_pending = self.ack_pending, None
        self.network.at(now + self.network.link.rtt / 2, lambda now: self.on_ack(now, packets))

    def on_ack(self, now, packets):
        packets = sorted((p for p in packets if p.number in self.sent), key=lambda p: p.number)
        for packet in packets:
            del self.sent[packet.number]
            self.control.on_packet_acked(now=now, packet=packet)
            self.delivered += SIZE
        if packets and packets[-1].number > self.largest_acked:
            self.largest_acked = packets[-1].number
            rtt = now - packets[-1].sent_time
            self.srtt += (rtt - self.srtt) / 8 if self.srtt else rtt
            self.control.on_rtt_measurement(now=now, rtt=rtt)
            self.pacer.refresh()
        deadline = now - 9 / 8 * self.srtt
        lost = []
        for number, packet in self.sent.items():
            if number > self.largest_acked:
                break
            if number <= self.largest_acked - 32 or packet.sent_time <= deadline:
                lost.append(packet)
        for packet in lost:
            del self.sent[packet.number]
        if lost:
            self.lost += len(lost)
            self.control.on_packets_lost(now=now, packets=lost)
            self.pacer.refresh()
        self.delivered_at.append((now, self.delivered))
        self.pump(now)

    def rate(self, start, end):
        """Bytes a second delivered between two times."""
        before = max((b for t, b in self.delivered_at if t <= start), default=0)
        after = max((b for t, b in self.delivered_at if t <= end), default=0)
        return (after - before) / (end - start)


@dataclass
class Network:
    link: Link
    seed: int = 1
    queue: list = field(default_factory=list)
    order: int = 0
    free_at: float = 0.0
    delays: list = field(default_factory=list)  # (time, queueing delay)

    def __post_init__(self):
        self.random = Random(self.seed)
        self.senders = []

    def add(self, control, **options):
        sender = Sender(self, control, **options)
        self.senders.append(sender)
        self.at(sender.start, sender.pump)
        return sender

    def ours(self, **options):
        control = CongestionController(datagram_bytes=SIZE, random=Random(self.random.random()))
        return self.add(control, **options)

    def at(self, when, call):
        self.order += 1
        heapq.heappush(self.queue, (when, self.order, call))

    def enqueue(self, sender, packet, now):
        link = self.link
        backlog = max(0.0, self.free_at - now)
        if backlog * link.rate + SIZE > link.buffer:
            return
        self.delays.append((now, backlog))
        self.free_at = max(now, self.free_at) + SIZE / link.rate
        if self.random.random() < link.loss:
            return
        arrives = self.free_at + link.rtt / 2
        if link.reorder_s:
            arrives += self.random.random() * link.reorder_s
        self.at(arrives, lambda now: sender.on_arrival(now, packet))

    def run(self, until):
        queue = self.queue
        while queue and queue[0][0] <= until:
            now, _, call = heapq.heappop(queue)
            call(now)

    def median_queue(self, start, end):
        delays = sorted(d for t, d in self.delays if start <= t <= end)
        return delays[len(delays) // 2] if delays else 0.0

    def queue_share_above(self, limit, start, end):
        delays = [d for t, d in self.delays if start <= t <= end]
        return sum(d > limit for d in delays) / max(1, len(delays))
