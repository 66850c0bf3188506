import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from transport.udp.batch import BatchSocket
from transport.udp.reads import ReadChoice
from transport.udp.sends import RunSender
from transport.udp.udp_socket import SocketAddress

MIB = 1024 * 1024
SEED = 20_261_121

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="UDP_SEGMENT and UDP_GRO are Linux")


class Source:
    """A plain socket that sends datagrams one by one, or a run of them in one call."""

    def __init__(self, target: SocketAddress) -> None:
        self.socket = socket.socket(
            socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_DGRAM
        )
        self.socket.bind(("::1" if ":" in target[0] else "127.0.0.1", 0))
        self.target = target

    @property
    def address(self) -> SocketAddress:
        return self.socket.getsockname()

    def send(self, *datagrams: bytes) -> None:
        for each in datagrams:
            self.socket.sendto(each, self.target)

    def send_merged(self, *datagrams: bytes) -> None:
        """All but the last are of one size; the kernel keeps them together on loopback."""
        control = [(socket.IPPROTO_UDP, 103, struct.pack("H", len(datagrams[0])))]
        self.socket.sendmsg(datagrams, control, 0, self.target)


@pytest.fixture
def batch() -> Iterator[BatchSocket]:
    made = BatchSocket("127.0.0.1", 0, 8 * MIB)
    yield made
    made.close()


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
        made.bind(("127.0.0.1", 0))
        made.setblocking(False)
        yield made


@pytest.fixture
def source(batch) -> Iterator[Source]:
    made = Source(("127.0.0.1", batch.port))
    yield made
    made.socket.close()


def read_plainly(batch: BatchSocket, source: Source) -> None:
    """Singles until the socket has noticed that nothing merges."""
    while batch.is_merging:
        source.send(*numbered([1, 2] * 60))
        runs_of(batch)
        if sys.platform != "linux":
            return


def runs_of(batch: BatchSocket, wait_s: float = 0.01) -> list[tuple[SocketAddress, int, bytes]]:
    """Everything that waits, copied out of the buffer."""
    time.sleep(wait_s)
    found = []
    while True:
        found += [(source, size, bytes(view)) for source, size, view in batch.receive()]
        if batch.is_drained:
            return found


def datagrams_of(runs: list[tuple[SocketAddress, int, bytes]]) -> list[bytes]:
    return [
        data[start : start + size] for _, size, data in runs for start in range(0, len(data), size)
    ]


def read_all(sink: socket.socket) -> list[bytes]:
    time.sleep(0.01)
    found = []
    try:
        while True:
            found.append(sink.recv(65_535))
    except BlockingIOError:
        return found


def numbered(sizes: list[int]) -> list[bytes]:
    return [bytes([index % 256]) * size for index, size in enumerate(sizes)]


class TestReceive:
    def test_equal_datagrams_and_a_shorter_last_one_are_one_run(self, batch, source):
        sent = numbered([1400] * 5 + [600])
        source.send(*sent)
        assert runs_of(batch) == [(source.address, 1400, b"".join(sent))]

    @linux_only
    def test_what_the_kernel_merged_is_one_run_in_one_read(self, batch, source):
        sent = numbered([1400] * 45 + [600])
        source.send_merged(*sent)
        assert runs_of(batch) == [(source.address, 1400, b"".join(sent))]
        counts = batch.statistics()
        assert (counts.reads, counts.datagrams_received) == (1, 46)
        assert counts.bytes_received == 45 * 1400 + 600

    @pytest.mark.parametrize("sizes", [[5, 9, 9, 3, 3, 3], [9, 3, 9, 3], [1, 2, 3], [7, 7, 8, 7]])
    def test_other_sizes_begin_other_runs(self, batch, source, sizes):
        source.send(*numbered(sizes))
        assert datagrams_of(runs_of(batch)) == numbered(sizes)

    @pytest.mark.parametrize("reads_plainly", [True, False])
    def test_an_empty_datagram_is_dropped_and_counted(self, batch, source, reads_plainly):
        if reads_plainly:
            read_plainly(batch, source)
        before = batch.statistics()
        source.send(b"aa", b"", b"bb")
        assert datagrams_of(runs_of(batch)) == [b"aa", b"bb"]
        counts = batch.statistics()
        assert counts.empty_dropped == 1
        assert counts.datagrams_received - before.datagrams_received == 2

    @pytest.mark.parametrize("reads_plainly", [True, False])
    @pytest.mark.parametrize("count", [136, 137, 138, 139])
    def test_the_largest_datagram_comes_whole_after_a_nearly_full_batch(
        self, batch, source, count, reads_plainly
    ):
        if reads_plainly:
            read_plainly(batch, source)
        small, large = numbered([1400] * count), b"L" * 65_507
        for _ in range(3):
            source.send(*small, large)
            assert datagrams_of(runs_of(batch)) == [*small, large]

    def test_random_sizes_from_two_sources_read_plainly_keep_order_and_boundaries(
        self, batch, source
    ):
        draw, other = random.Random(SEED), Source(source.target)
        read_plainly(batch, source)
        for _ in range(150):
            sizes = draw.choice([[1400], [1400, 1400, 1400, 700], [0, 5, 5, 9000, 1, 30_000]])
            sent = []
            for _ in range(draw.randint(1, 70)):
                data = draw.randbytes(draw.choice(sizes))
                by = draw.choice([source, source, source, other])
                by.send(data)
                sent += [(by.address, data)] if data else []
            got = [
                (address, data[start : start + size])
                for address, size, data in runs_of(batch, wait_s=0.0005)
                for start in range(0, len(data), size)
            ]
            assert got == sent, f"seed {SEED}"
        assert not batch.is_merging
        other.socket.close()

    def test_a_flood_of_empty_datagrams_does_not_hold_the_reader(self, batch, source):
        read_plainly(batch, source)
        for _ in range(2):
            source.send(b"x", *[b""] * 1000)
            time.sleep(0.01)
            batch.receive()
            assert not batch.is_drained
            runs_of(batch)

    def test_a_batch_is_bounded_however_small_the_datagrams_are(self, batch, source):
        source.send(*[b"x"] * 600)
        time.sleep(0.01)
        assert len(datagrams_of([(a, s, bytes(v)) for a, s, v in batch.receive()])) < 600
        assert not batch.is_drained

    def test_the_kernels_drops_are_counted(self):
        batch = BatchSocket("127.0.0.1", 0, 4096)
        source = Source(("127.0.0.1", batch.port))
        source.send(*[bytes(1400)] * 200)
        received = len(datagrams_of(runs_of(batch)))
        assert received + batch.statistics().overflow_dropped == 200
        batch.close()
        source.socket.close()


class TestSend:
    @pytest.mark.parametrize("can_segment", [True, False])
    @pytest.mark.parametrize(
        ("sizes", "segment"),
        [([1400], 1400), ([1400] * 46, 1400), ([1400] * 45 + [1], 1400), ([9] * 300, 9)],
    )
    def test_a_run_arrives_as_it_was(self, sink, sizes, segment, can_segment):
        """Also where the kernel knows no segments."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
            sender = RunSender(plain)
            sender.can_segment &= can_segment
            sent = numbered(sizes)
            sender.queue(memoryview(b"".join(sent)), segment, sink.getsockname())
            sender.flush()
            assert read_all(sink) == sent
            assert sender.datagrams == len(sizes)
            if not can_segment:
                assert sender.sends == len(sizes)

    @linux_only
    def test_runs_to_one_address_leave_together(self, batch, sink):
        sent = numbered([1400] * 30 + [200])
        for each in sent:
            batch.send(each, sink.getsockname())
        batch.flush()
        assert read_all(sink) == sent
        assert batch.statistics().sends == 1

    def test_nothing_leaves_before_the_flush_and_nothing_twice(self, batch, sink):
        batch.send(b"x", sink.getsockname())
        assert read_all(sink) == []
        batch.flush()
        batch.flush()
        assert read_all(sink) == [b"x"]

    def test_random_runs_to_several_addresses_keep_order_and_boundaries(self, batch):
        draw = random.Random(SEED)
        sinks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
        for each in sinks:
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
        sent: list[list[bytes]] = [[] for _ in sinks]
        got: list[list[bytes]] = [[] for _ in sinks]
        for _ in range(150):
            for _ in range(draw.randint(1, 12)):
                index, size = draw.randrange(4), draw.choice([1, 9, 100, 1200, 1400, 3000])
                run = [draw.randbytes(size) for _ in range(draw.randint(0, 8))]
                run.append(draw.randbytes(draw.randint(1, size)))
                batch.queue(memoryview(b"".join(run)), len(run[0]), sinks[index].getsockname())
                sent[index] += run
            batch.flush()
            for index, each in enumerate(sinks):
                try:
                    while True:
                        got[index].append(each.recv(65_535))
                except BlockingIOError:
                    pass
        assert got == sent, f"seed {SEED}"
        for each in sinks:
            each.close()

    def test_datagrams_too_long_for_the_way_are_counted_and_the_others_go(self, batch, sink):
        batch.send(bytes(65_530), sink.getsockname())
        batch.send(b"x", ("127.0.0.1", sink.getsockname()[1]))
        batch.flush()
        assert read_all(sink) == [b"x"]
        assert batch.statistics().too_long_dropped == 1

    def test_no_route_is_a_failed_send(self, batch):
        batch.queue(memoryview(bytes(200)), 100, ("240.0.0.1", 9))
        batch.flush()
        assert batch.statistics().send_failed + batch.statistics().datagrams_sent == 2


class TestReadChoice:
    def test_merged_reads_stay_while_they_bring_several(self):
        choice = ReadChoice()
        for _ in range(100):
            choice.observe(64, 64 * 3, is_drained=True)
        assert choice.wants_merged

    def test_plain_reads_follow_when_they_bring_one_each(self):
        choice = ReadChoice()
        choice.observe(ReadChoice.MERGED_READS, ReadChoice.MERGED_READS, is_drained=False)
        assert not choice.wants_merged

    def test_merging_is_tried_again_and_what_was_queued_before_is_not_judged(self):
        choice = ReadChoice()
        choice.observe(ReadChoice.MERGED_READS, ReadChoice.MERGED_READS, is_drained=False)
        choice.observe(ReadChoice.PLAIN_READS, ReadChoice.PLAIN_READS, is_drained=False)
        assert choice.wants_merged
        choice.observe(ReadChoice.MERGED_READS, ReadChoice.MERGED_READS, is_drained=False)
        assert choice.wants_merged
        choice.observe(1, 1, is_drained=True)
        choice.observe(ReadChoice.MERGED_READS, 5 * ReadChoice.MERGED_READS, is_drained=True)
        assert choice.wants_merged

    @linux_only
    def test_a_socket_changes_its_reads_and_loses_no_boundary(self, batch, source):
        """Singles until it reads plainly, then merged ones until it has noticed."""
        for _ in range(10):
            source.send(*numbered([1400, 900] * 40))
            assert datagrams_of(runs_of(batch)) == numbered([1400, 900] * 40)
        assert not batch.is_merging
        merged = numbered([1000] * 60)
        for _ in range(40):
            for _ in range(15):
                source.send_merged(*merged)
            assert datagrams_of(runs_of(batch)) == merged * 15
        assert batch.is_merging

    @linux_only
    def test_merging_is_not_switched_off_while_something_waits(self, batch, source):
        source.send_merged(*numbered([1000] * 60))
        time.sleep(0.01)
        batch._reader.is_drained = True
        batch._reader._change()
        assert batch.is_merging
        assert datagrams_of(runs_of(batch)) == numbered([1000] * 60)


class TestAddresses:
    def test_one_socket_serves_both_families(self):
        try:
            batch = BatchSocket("::", 0, MIB)
        except OSError:
            pytest.skip("no IPv6 here")
        old = Source(("127.0.0.1", batch.port))
        new = Source(("::1", batch.port))
        old.send(b"four")
        new.send(b"six")
        answers = runs_of(batch)
        assert datagrams_of(answers) == [b"four", b"six"]
        for address, _, data in answers:
            for each in (data, data, b"x"):
                batch.send(each, address)
        batch.flush()
        assert [old.socket.recv(9) for _ in range(3)] == [b"four", b"four", b"x"]
        assert [new.socket.recv(9) for _ in range(3)] == [b"six", b"six", b"x"]
        for each in (batch, old.socket, new.socket):
            each.close()

    def test_a_taken_port_is_an_error(self, batch):
        with pytest.raises(OSError, match="in use"):
            BatchSocket("127.0.0.1", batch.port, MIB)


SMALL_MTU = """
import socket, sys, time
from transport.udp.batch import BatchSocket
batch = BatchSocket("127.0.0.1", 0, 1 << 20)
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind(("127.0.0.1", 0))
sink.settimeout(5)
batch.queue(memoryview(bytes(1400 * 3 + 100)), 1400, sink.getsockname())
batch.flush()
batch.queue(memoryview(bytes(1200 * 2 + 100)), 1200, sink.getsockname())
batch.flush()
counts = batch.statistics()
print([len(sink.recv(2000)) for _ in range(4)], counts.too_long_dropped, counts.datagrams_sent)
"""


@linux_only
def test_segments_above_the_mtu_are_dropped_and_counted_and_the_last_one_goes():
    """The kernel refuses the whole send (EMSGSIZE); in a namespace whose loopback is narrow."""
    script = 'ip link set lo mtu 1300 up && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, sys.executable, SMALL_MTU],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    if done.returncode != 0 and "not permitted" in done.stderr.lower():
        pytest.skip("network namespaces need root")
    assert done.stdout.strip() == "[100, 1200, 1200, 100] 3 4", done.stderr
