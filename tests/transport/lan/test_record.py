import ipaddress
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from transport.address import Address
from transport.lan.discovery import cluster_tag
from transport.lan.record import (
    ADDRESSES_MAX,
    announced_hosts,
    instance_name,
    properties_of,
    sighting_of,
)

PEER = KeyPair.generate().peer_id
TAG = cluster_tag("home")
TXT = {key.encode(): value.encode() for key, value in properties_of(PEER, TAG).items()}


class TestAnnounced:
    def test_only_lan_addresses_of_one_port_are_announced(self):
        addresses = [
            Address("203.0.113.7", 4001, PEER),
            Address("127.0.0.1", 4001, PEER),
            Address("192.168.1.5", 4001, PEER),
            Address("fd00::5", 4001, PEER),
            Address("10.0.0.5", 9999, PEER),
            Address("192.168.1.5", 4001, PEER),
        ]
        assert announced_hosts(addresses) == (["192.168.1.5", "fd00::5"], 4001)
        assert announced_hosts(addresses[:2]) == ([], 0)

    def test_instance_name_is_a_dns_label(self):
        assert len(instance_name(PEER).partition(".")[0]) <= 63

    def test_cluster_name_is_not_announced(self):
        assert "home" not in str(properties_of(PEER, TAG))
        assert cluster_tag("home") != cluster_tag("homes")


class TestSightingOf:
    def test_what_is_announced_is_seen(self):
        sighting = sighting_of(TXT, ["192.168.1.5", "fd00::5"], 4001)
        assert sighting.peer_id == PEER
        assert sighting.cluster == TAG
        assert [address.host for address in sighting.addresses] == ["192.168.1.5", "fd00::5"]
        assert {address.port for address in sighting.addresses} == {4001}

    def test_order_of_the_answers_does_not_matter(self):
        hosts = ["10.0.0.2", "fd00::5", "10.0.0.1"]
        assert sighting_of(TXT, hosts, 1) == sighting_of(TXT, hosts[::-1], 1)

    def test_addresses_that_lead_out_or_to_ourselves_are_left_out(self):
        spoofed = ["8.8.8.8", "127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "ff02::1", "fe80::1", "x"]
        assert len(sighting_of(TXT, [*spoofed, "10.0.0.1"], 4001).addresses) == 1
        with pytest.raises(RemoteProtocolError):
            sighting_of(TXT, spoofed, 4001)

    def test_number_of_addresses_is_bounded(self):
        hosts = [str(ipaddress.ip_address(0x0A000000 + n)) for n in range(200)]
        assert len(sighting_of(TXT, hosts, 4001).addresses) == ADDRESSES_MAX

    @pytest.mark.parametrize("port", [None, 0, 65536, -1])
    def test_port_must_be_one(self, port):
        with pytest.raises(RemoteProtocolError):
            sighting_of(TXT, ["10.0.0.1"], port)

    @pytest.mark.parametrize(
        "change",
        [
            {b"v": b"2"},
            {b"v": None},
            {b"id": b""},
            {b"id": b"12D3KooWnonsense"},
            {b"id": b"1" * 200},
            {b"id": b"1" * 63},
            {b"id": b"\xff\xfe"},
            {b"c": b"\xff"},
            {b"c": b"x" * 129},
        ],
    )
    def test_nonsense_is_refused(self, change):
        with pytest.raises(RemoteProtocolError):
            sighting_of({**TXT, **change}, ["10.0.0.1"], 4001)

    @given(
        st.dictionaries(
            st.sampled_from([b"v", b"id", b"c", b"x"]), st.none() | st.binary(max_size=300)
        ),
        st.lists(st.ip_addresses().map(str) | st.text(max_size=20), max_size=20),
        st.none() | st.integers(),
    )
    def test_arbitrary_announcements_raise_nothing_else(self, properties, hosts, port):
        with suppress(RemoteProtocolError):
            sighting_of({**TXT, **properties}, hosts, port)
