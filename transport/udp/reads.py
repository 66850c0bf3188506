"""Reading a UDP socket in runs: consecutive datagrams of one source and size, in one buffer.

Linux can merge what arrives together and hand it over in one read (UDP_GRO, udp(7)); then one read
costs little more than for a single datagram. Where nothing merges, plain reads one behind the
other make the same runs, and each is a quarter cheaper. `ReadChoice` decides by what it sees.
"""

import logging
import socket
import sys
from typing import Final

from transport.udp.udp_socket import SocketAddress

__all__ = ["ReadChoice", "Run", "RunReader"]

Run = tuple[SocketAddress, int, memoryview]
"""Source, segment size, and the datagrams one behind the other; the last may be shorter."""

log = logging.getLogger(__name__)

_UDP_GRO: Final = 104
_CONTROL_BYTES: Final = 64
"""Room for what UDP_GRO says: one int, with its header and padding."""
_DATAGRAM_BYTES_MAX: Final = 65_535
"""A read with less room than this may cut what the kernel has merged."""
_BATCH_BYTES: Final = 193_200
"""A batch ends once it holds this much: three full sends of one flow, or a few datagrams each of
many flows, which then leave together. More did not pay; a third cost 20 % more."""
_READS_MAX: Final = 256
"""Reads of one batch; tiny datagrams would not fill it for long."""
_NOBODY: Final[SocketAddress] = ("", 0)
"""Before the first datagram, and after a run has ended."""


class ReadChoice:
    """Whether merged reads pay: pure, fed with counts."""

    MERGED_READS: Final = 256
    """How many are looked at before a judgement."""
    PLAIN_READS: Final = 16_384
    """Then merged reads are tried again: 2 % of reads are spent on finding out."""
    QUEUED_READS_MAX: Final = 8192
    """What came before merging went on was not merged, and is not judged; a buffer holds less."""
    DATAGRAMS_PER_READ_MIN: Final = 1.5
    """Below this a merged read costs more than the plain ones it saves."""

    def __init__(self) -> None:
        self.wants_merged = True
        self._is_settled = True
        self._reads = self._datagrams = 0

    def observe(self, reads: int, datagrams: int, *, is_drained: bool) -> None:
        """These reads, made as `wants_merged` says, brought these datagrams."""
        self._reads += reads
        self._datagrams += datagrams
        if not self.wants_merged:
            # Plain reads cannot tell whether anything would have merged, so they only count.
            if self._reads >= self.PLAIN_READS:
                self._begin(wants_merged=True, is_settled=False)
        elif not self._is_settled:
            if is_drained or self._reads >= self.QUEUED_READS_MAX:
                self._begin(wants_merged=True, is_settled=True)
        elif self._reads >= self.MERGED_READS:
            is_worth_it = self._datagrams >= self._reads * self.DATAGRAMS_PER_READ_MIN
            self._begin(wants_merged=is_worth_it, is_settled=True)

    def _begin(self, *, wants_merged: bool, is_settled: bool) -> None:
        self.wants_merged, self._is_settled = wants_merged, is_settled
        self._reads = self._datagrams = 0


class RunReader:
    """The receiving half of a BatchSocket; the socket is its owner's."""

    def __init__(self, source: socket.socket) -> None:
        self._socket = source
        self._view = memoryview(bytearray(_BATCH_BYTES + _DATAGRAM_BYTES_MAX))
        self._choice = ReadChoice()
        self.can_merge = self.is_merging = self._set_merging(True)
        self.is_drained = False
        self._first_bytes = 0
        self._places: list[memoryview] = []
        self.reads = self.datagrams = self.bytes = self.empty = 0

    def receive(self) -> list[Run]:
        """The next batch, in order of arrival; its memory is good until the next call."""
        runs = self._read_merged() if self.is_merging else self._read_plain()
        if self.can_merge and self._choice.wants_merged != self.is_merging:
            self._change()
        return runs

    def _read_plain(self) -> list[Run]:
        runs: list[Run] = []
        view, receive = self._view, self._socket.recvfrom_into
        source = _NOBODY
        begin = offset = size = reads = empty = 0
        self.is_drained = False
        try:
            count, address = receive(view)
            while True:
                reads += 1
                if 0 < count <= size and address == source:
                    offset += count
                    if count < size:
                        runs.append((address, size, view[begin:offset]))
                        source = _NOBODY
                elif count:
                    if source is not _NOBODY:
                        runs.append((source, size, view[begin:offset]))
                    begin, size, source = offset, count, address
                    offset += count
                else:
                    empty += 1
                if offset >= _BATCH_BYTES or reads >= _READS_MAX:
                    break
                for place in self._places_after(size) if offset == size > 0 else ():
                    count, address = receive(place)
                    if count != size:
                        break
                    if address != source:
                        runs.append((source, size, view[begin:offset]))
                        begin, source = offset, address
                    reads += 1
                    offset += size
                else:
                    count, address = receive(view[offset:])
        except OSError as error:
            self._pause(error)
        if source is not _NOBODY:
            runs.append((source, size, view[begin:offset]))
        self.empty += empty
        self._count(reads, reads - empty, offset)
        return runs

    def _places_after(self, size: int) -> list[memoryview]:
        """Where further datagrams of that size go, if the batch before began with the same.

        Ready-made places save a tenth of what a plain read costs.
        """
        if size != self._first_bytes:
            self._first_bytes, self._places = size, []
        elif not self._places:
            # all filled, a batch is not above its size yet, so one more read has room
            ends = range(size, _BATCH_BYTES - size + 1, size)[: _READS_MAX - 1]
            self._places = [self._view[end:] for end in ends]
        return self._places

    def _read_merged(self) -> list[Run]:
        runs: list[Run] = []
        view, receive = self._view, self._socket.recvmsg_into
        source = _NOBODY
        begin = offset = size = reads = datagrams = 0
        self.is_drained = False
        try:
            while offset < _BATCH_BYTES and reads < _READS_MAX:
                count, control, _, address = receive((view[offset:],), _CONTROL_BYTES)
                reads += 1
                if not count:
                    self.empty += 1
                    continue
                segment = _segment_bytes(control) if control else count
                datagrams += -(-count // segment)
                if address != source or not (segment == size or segment == count < size):
                    if source is not _NOBODY:
                        runs.append((source, size, view[begin:offset]))
                    begin, size, source = offset, segment, address
                offset += count
                if count % size:
                    runs.append((address, size, view[begin:offset]))
                    source = _NOBODY
        except OSError as error:
            self._pause(error)
        if source is not _NOBODY:
            runs.append((source, size, view[begin:offset]))
        self._count(reads, datagrams, offset)
        return runs

    def _pause(self, error: OSError) -> None:
        """Nothing is waiting, or an ICMP error of an earlier send came in place of a datagram."""
        self.is_drained = True
        if not isinstance(error, BlockingIOError):
            log.debug("receive failed: %s", error)

    def _count(self, reads: int, datagrams: int, size_bytes: int) -> None:
        self.reads += reads
        self.datagrams += datagrams
        self.bytes += size_bytes
        self._choice.observe(reads, datagrams, is_drained=self.is_drained)

    def _change(self) -> None:
        """Between merged and plain reads.

        Once merging is off, nothing says how what was merged before is divided. So it goes off
        only when nothing is waiting, and on again if something arrived in between.
        """
        if not self.is_merging:
            self.is_merging = self._set_merging(True)
        elif self.is_drained and self._set_merging(False):
            self.is_merging = not self._is_empty() and self._set_merging(True)

    def _is_empty(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False

    def _set_merging(self, is_on: bool) -> bool:
        """Whether the kernel took it; others than Linux (since 5.0) have no such option."""
        try:
            self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, is_on)
        except OSError:
            return False
        return True


def _segment_bytes(control: list[tuple[int, int, bytes]]) -> int:
    """The size into which a merged read divides; the kernel writes it as a native int."""
    return int.from_bytes(control[0][2], sys.byteorder)
