import ipaddress

import pytest

from transport.base import PathKind
from transport.interfaces import (
    LocalAddress,
    interface_towards,
    is_loopback,
    local_addresses,
    local_hosts,
    path_kind_of,
    rank_lan_hosts,
)


class TestPathKindOf:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
            "fe80::1%eth0",
            "::ffff:192.168.1.1",
        ],
    )
    def test_private_loopback_and_link_local_are_lan(self, host):
        assert path_kind_of(host) is PathKind.LAN

    @pytest.mark.parametrize(
        "host", ["8.8.8.8", "172.32.0.1", "100.64.0.1", "2001:4860::1", "::ffff:8.8.8.8"]
    )
    def test_others_are_direct(self, host):
        assert path_kind_of(host) is PathKind.DIRECT


class TestLocalHosts:
    def test_wildcards_are_never_advertised(self):
        for listen_host in ("0.0.0.0", "::"):
            for host in local_hosts(listen_host):
                address = ipaddress.ip_address(host)
                assert not address.is_unspecified
                assert not address.is_loopback
                assert not (address.version == 6 and address.is_link_local)

    def test_ipv4_wildcard_gives_ipv4_only(self):
        assert all(ipaddress.ip_address(host).version == 4 for host in local_hosts("0.0.0.0"))

    def test_explicit_address_is_itself(self):
        assert local_hosts("127.0.0.1") == ("127.0.0.1",)
        assert local_hosts("::1") == ("::1",)


def test_is_loopback():
    assert is_loopback("127.3.4.5")
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("192.168.0.1")


def local(host: str, interface: str = "eth0", speed_mbits: int = 0, **facts) -> LocalAddress:
    return LocalAddress(host, facts.pop("prefix_bits", 24), interface, speed_mbits, **facts)


class TestLocalAddresses:
    def test_agree_with_what_the_socket_can_bind_and_are_ordered(self):
        addresses = local_addresses()
        for address in addresses:
            assert address.leads_to(address.host)
            assert 0 < address.prefix_bits <= 128
            assert address.mtu > 0
        order = [(address.is_virtual, -address.usable_mbits) for address in addresses]
        assert order == sorted(order)

    def test_wireless_counts_for_a_quarter_and_unknown_for_what_is_usual(self):
        cable, air = local("10.0.0.1"), local("10.0.0.1", is_wireless=True)
        assert cable.usable_mbits > air.usable_mbits > 0
        fast_air = local("10.0.0.1", speed_mbits=2400, is_wireless=True)
        assert fast_air.usable_mbits < cable.usable_mbits


class TestInterfaceTowards:
    CABLE = local("192.168.1.5", "eth0", 1000)
    AIR = local("192.168.2.5", "wlan0", 866, is_wireless=True)
    BRIDGE = local("172.17.0.1", "docker0", 10_000, prefix_bits=16, is_virtual=True)
    ALL = (CABLE, AIR, BRIDGE)

    def test_is_the_one_whose_network_the_host_is_on(self):
        assert interface_towards("192.168.1.77", self.ALL) is self.CABLE
        assert interface_towards("192.168.2.77", self.ALL) is self.AIR
        assert interface_towards("10.0.0.1", self.ALL) is None
        assert interface_towards("fd00::1", self.ALL) is None

    def test_longest_prefix_wins_and_then_the_faster(self):
        wide = local("192.168.9.9", "eth1", 10_000, prefix_bits=16)
        twin = local("192.168.1.6", "eth2", 2500)
        assert interface_towards("192.168.1.77", (wide, *self.ALL)) is self.CABLE
        assert interface_towards("192.168.1.77", (self.CABLE, twin)) is twin

    def test_ranking_takes_the_fastest_common_network_first(self):
        hosts = ["10.9.9.9", "192.168.2.7", "172.17.0.2", "8.8.8.8", "192.168.1.7", "192.168.1.7"]
        ranked = rank_lan_hosts(hosts, self.ALL)
        assert ranked == ("192.168.1.7", "192.168.2.7", "172.17.0.2", "10.9.9.9")

    def test_ranking_looks_at_the_slower_end(self):
        ten = local("10.1.0.5", "eth1", 10_000)
        hosts = ["192.168.1.7", "10.1.0.7"]
        assert rank_lan_hosts(hosts, (ten, self.CABLE))[0] == "10.1.0.7"
        slow_end = {"10.1.0.7": 100, "192.168.1.7": 1000}
        assert rank_lan_hosts(hosts, (ten, self.CABLE), slow_end)[0] == "192.168.1.7"

    def test_equally_fast_ones_keep_their_order(self):
        assert rank_lan_hosts(["192.168.1.9", "192.168.1.2"], self.ALL) == (
            "192.168.1.9",
            "192.168.1.2",
        )
