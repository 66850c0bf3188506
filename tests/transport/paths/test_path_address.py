import pytest

from protocol.errors import LocalProtocolError
from transport.base import PathKind
from transport.paths.path_address import (
    CircuitPath,
    TunnelPath,
    address_kind,
    first_datagram_bytes,
    path_text,
    token_address,
)
from transport.paths.table import PATHS_MAX, PathTable
from transport.quic.settings import QuicSettings
from transport.udp.udp_socket import UdpSocket

RELAY = ("198.51.100.1", 4001)
CIRCUIT = CircuitPath(RELAY, b"circuit1")
ALL = [("192.168.1.2", 1), ("2001:db8::1", 2, 0, 0), CIRCUIT, TunnelPath(3)]


class TestPathAddress:
    def test_kinds(self):
        kinds = [PathKind.LAN, PathKind.DIRECT, PathKind.RELAYED, PathKind.RELAYED]
        assert [address_kind(path) for path in ALL] == kinds

    def test_text_names_all_of_it(self):
        assert [path_text(path) for path in ALL] == [
            "192.168.1.2:1",
            "[2001:db8::1]:2",
            f"relay 198.51.100.1:4001 circuit {b'circuit1'.hex()}",
            "tunnel 3",
        ]

    def test_each_has_a_token_address_of_its_own(self):
        assert len({token_address(path) for path in ALL}) == len(ALL)
        assert token_address(ALL[1]) == ("2001:db8::1", 2)

    def test_first_datagrams_fit_every_path(self):
        settings = QuicSettings()
        sizes = [first_datagram_bytes(path, settings) for path in ALL]
        assert sizes == [1200, 1200, 1200, 8900]
        assert first_datagram_bytes(("127.0.0.1", 1), settings) == 8900


class TestPathTable:
    @pytest.fixture
    def udp(self):
        opened = UdpSocket("127.0.0.1", 0, 65536)
        yield opened
        opened.close()

    def test_only_a_known_relay_and_circuit_is_believed(self, udp):
        table = PathTable(udp)
        table.add_circuit(CIRCUIT)
        data = b"\x08circuit1" + b"inside"
        assert table.unwrap(data, RELAY) == (b"inside", CIRCUIT)
        assert table.unwrap(data, ("198.51.100.1", 4002)) is None
        assert table.unwrap(b"\x08circuit2inside", RELAY) is None
        table.remove_circuit(CIRCUIT)
        assert table.unwrap(data, RELAY) is None

    @pytest.mark.parametrize("inner", [b"", b"\x08circuit1more"])
    def test_nothing_and_another_wrapping_are_refused(self, udp, inner):
        table = PathTable(udp)
        table.add_circuit(CIRCUIT)
        assert table.unwrap(b"\x08circuit1" + inner, RELAY) is None
        assert table.unwrap(b"\x08", RELAY) is None

    def test_wrapped_datagrams_keep_equal_sizes(self, udp):
        receiver = UdpSocket("127.0.0.1", 0, 1 << 20)
        path = CircuitPath(("127.0.0.1", receiver.port), b"circuit1")
        PathTable(udp).send([bytes([i]) * 1000 for i in range(5)] + [b"tail"], path)
        arrived = [data for data, _ in receiver.receive(10)]
        receiver.close()
        assert [len(data) for data in arrived] == [1009] * 5 + [13]
        assert arrived[-1] == b"\x08circuit1tail"

    def test_tunnels_are_called_or_counted(self, udp):
        table, taken = PathTable(udp), []
        table.send([b"a"], TunnelPath(1))
        table.add_tunnel(TunnelPath(1), taken.append)
        table.send([b"b", b"c"], TunnelPath(1))
        table.remove_tunnel(TunnelPath(1))
        table.send([b"d"], TunnelPath(1))
        assert taken == [[b"b", b"c"]]
        assert table.unsendable_count == 2

    def test_numbers_are_bounded(self, udp):
        table = PathTable(udp)
        for number in range(PATHS_MAX):
            table.add_tunnel(TunnelPath(number), lambda datagrams: None)
            table.add_circuit(CircuitPath(RELAY, number.to_bytes(8, "big")))
        with pytest.raises(LocalProtocolError):
            table.add_tunnel(TunnelPath(-1), lambda datagrams: None)
        with pytest.raises(LocalProtocolError):
            table.add_circuit(CIRCUIT)
