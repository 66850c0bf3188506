import socket
import sys
import time
from collections.abc import Iterator

import pytest

from transport.udp.udp_socket import SocketAddress, UdpSocket

MIB = 1024 * 1024


@pytest.fixture
def pair() -> Iterator[tuple[UdpSocket, UdpSocket, SocketAddress]]:
    here, there = UdpSocket("127.0.0.1", 0, MIB), UdpSocket("127.0.0.1", 0, MIB)
    yield here, there, ("127.0.0.1", there.port)
    here.close()
    there.close()


def receive_all(udp: UdpSocket) -> list[bytes]:
    time.sleep(0.01)
    return [data for data, _ in udp.receive(1000)]


class TestSend:
    @pytest.mark.parametrize("can_segment", [True, False])
    @pytest.mark.parametrize(
        "sizes",
        [
            [1200],
            [1200] * 44 + [7],
            [1200] * 200,
            [8900] * 20 + [10],
            [10, 1200, 1200, 300, 1200, 5, 5, 1200],
            [1, 2, 3, 3, 2, 1],
            [0, 0, 5, 0],
        ],
    )
    def test_datagrams_arrive_as_they_were(self, pair, sizes, can_segment):
        here, there, address = pair
        here.can_segment = can_segment and sys.platform == "linux"
        sent = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
        here.send(sent, address)
        assert receive_all(there) == sent
        counts = here.statistics()
        assert counts.datagrams_sent == len(sizes)
        assert counts.bytes_sent == sum(sizes)
        assert counts.send_failed_count == 0

    def test_a_datagram_that_cannot_be_sent_is_counted_as_lost(self, pair):
        here, _, address = pair
        here.send([bytes(65_600)], address)
        assert here.statistics().send_failed_count == 1

    def test_refused_segments_go_one_by_one_and_it_is_said(self, pair, caplog):
        here, there, address = pair
        if not here.can_segment:
            pytest.skip("no segmented sends here")
        # A receiver on another interface cannot be had here; a run longer than the kernel takes
        # is refused in the same way.
        here.send([b"x" * 10] * 3, address)
        here._send_run([b"x"] * 200, address)
        assert not here.can_segment
        assert "one by one" in caplog.text
        assert len(receive_all(there)) == 203


class TestReceive:
    def test_reads_at_most_a_batch(self, pair):
        here, there, address = pair
        here.send([b"x"] * 10, address)
        time.sleep(0.01)
        assert len(there.receive(4)) == 4
        assert len(there.receive(100)) == 6
        assert there.receive(100) == []
        assert there.statistics().datagrams_received == 10

    def test_buffers_are_enlarged(self, pair):
        here, _, _ = pair
        assert here._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= MIB


class TestAddresses:
    def test_each_family_is_named_as_the_socket_needs_it(self, pair):
        here, _, _ = pair
        assert here.to_socket_address("192.0.2.1", 7) == ("192.0.2.1", 7)
        assert here.to_socket_address("2001:db8::1", 7) is None

    def test_taken_port_is_an_error(self, pair):
        here, _, _ = pair
        with pytest.raises(OSError, match="in use"):
            UdpSocket("127.0.0.1", here.port, MIB)

    def test_ipv6_socket_names_both_families(self):
        try:
            udp = UdpSocket("::", 0, MIB)
        except OSError:
            pytest.skip("this machine has no IPv6")
        assert udp.to_socket_address("192.0.2.1", 7) == ("::ffff:192.0.2.1", 7, 0, 0)
        assert udp.to_socket_address("2001:db8::1", 7) == ("2001:db8::1", 7, 0, 0)
        udp.close()
