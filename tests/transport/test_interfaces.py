import ipaddress

import pytest

from transport.base import PathKind
from transport.interfaces import is_loopback, local_hosts, path_kind_of


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
