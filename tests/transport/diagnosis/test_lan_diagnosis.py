"""What `doctor` says of a LAN: the sentences, and in the laboratory what they rest on."""

import asyncio
from dataclasses import replace

import pytest

from protocol.identity import KeyPair
from tests.netlab.lab import Lab
from transport.diagnosis.finding import Level
from transport.diagnosis.lan_diagnosis import (
    diagnose_lan,
    explain_interfaces,
    explain_multicast,
    explain_static,
    explain_verdicts,
)
from transport.diagnosis.lan_probe import (
    MulticastProbe,
    StaticProbe,
    has_neighbour,
    probe_multicast,
)
from transport.interfaces import LocalAddress
from transport.lan.mdns import multicast_hosts
from transport.lan.verdict import LanCarrierKind, LanVerdict
from transport.quic.host import QuicHost

CABLE = LocalAddress("192.168.1.5", 24, "eth0", 1000)
WIFI = LocalAddress("192.168.1.6", 24, "wlan0", is_wireless=True)
HEARD = MulticastProbe("192.168.1.5", heard_own=True, other_hosts=3, piecework_hosts=1)
DARK = StaticProbe("192.168.1.9", 4001, "timed out", tcp_answers=False, local=WIFI)


def by_name(findings):
    return {finding.name: finding for finding in findings}


class TestSentences:
    @pytest.mark.parametrize(
        ("addresses", "name", "level"),
        [
            ([], "lan-interface", Level.FAIL),
            ([LocalAddress("8.8.8.8", 24, "eth0")], "lan-interface", Level.FAIL),
            ([CABLE], "lan-interface", Level.OK),
            ([replace(CABLE, has_multicast=False)], "multicast-interface", Level.FAIL),
            ([WIFI], "lan-speed", Level.WARN),
        ],
    )
    def test_interfaces(self, addresses, name, level):
        assert by_name(explain_interfaces(addresses))[name].level is level

    def test_cable_beside_wifi_is_no_warning(self):
        assert "lan-speed" not in by_name(explain_interfaces([CABLE, WIFI]))

    @pytest.mark.parametrize(
        ("probe", "name", "level", "word"),
        [
            (HEARD, "mdns-neighbours", Level.OK, "1 machine on this network speaks"),
            (replace(HEARD, piecework_hosts=0), "mdns-neighbours", Level.WARN, "3 machines"),
            (
                replace(HEARD, piecework_hosts=0, other_hosts=0),
                "mdns-neighbours",
                Level.WARN,
                "No other machine",
            ),
            (MulticastProbe("10.0.0.1"), "multicast-loopback", Level.FAIL, "not heard back"),
            (MulticastProbe("10.0.0.1", send_error="no"), "multicast-send", Level.FAIL, "refused"),
            (MulticastProbe("10.0.0.1", bind_error="no"), "mdns-port", Level.FAIL, "cannot"),
        ],
    )
    def test_multicast(self, probe, name, level, word):
        finding = by_name(explain_multicast([probe]))[name]
        assert finding.level is level
        assert word in finding.text
        assert bool(finding.fix) == (level is not Level.OK)

    @pytest.mark.parametrize(
        ("probe", "level", "word"),
        [
            (replace(DARK, quic_error=""), Level.OK, "answers"),
            (replace(DARK, tcp_answers=True), Level.FAIL, "UDP port 4001"),
            (replace(DARK, has_hardware_address=False), Level.FAIL, "not even ARP"),
            (
                replace(DARK, has_hardware_address=False, local=CABLE),
                Level.FAIL,
                "No machine has the address",
            ),
            (replace(DARK, tcp_answers=None), Level.FAIL, "192.168.1.9:4001: timed out"),
            (DARK, Level.FAIL, "Nothing at all"),
        ],
    )
    def test_typed_peer(self, probe, level, word):
        finding = explain_static(probe)
        assert finding.level is level
        assert word in finding.text
        assert bool(finding.fix) == (level is not Level.OK)

    def test_blocked_tcp_is_worth_a_warning_and_slower_tcp_is_not(self):
        peer = KeyPair.generate().peer_id
        blocked = LanVerdict(peer, "10.0.0.1", LanCarrierKind.QUIC, "TCP is blocked.", 0.0)
        slower = replace(blocked, reason="Slower.", tcp_echo_s=0.002, quic_echo_s=0.001)
        levels = [finding.level for finding in explain_verdicts([blocked, slower])]
        assert levels == [Level.WARN, Level.OK]


def test_arp_table_is_read(tmp_path):
    table = tmp_path / "arp"
    table.write_text(
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "10.0.0.2         0x1         0x2         02:00:00:00:00:02     *        eth0\n"
        "10.0.0.3         0x1         0x0         00:00:00:00:00:00     *        eth0\n"
    )
    assert has_neighbour("10.0.0.2", table) is True
    assert has_neighbour("10.0.0.3", table) is False
    assert has_neighbour("10.0.0.4", table) is None
    assert has_neighbour("10.0.0.2", tmp_path / "none") is None


async def test_interface_without_multicast_group_is_an_observation_not_an_exception():
    (probe,) = await probe_multicast(["203.0.113.77"], listen_s=0.05)
    assert probe.bind_error


class TestInTheLaboratory:
    def test_firewall_that_drops_multicast_is_named(self, lab: Lab):
        (host,) = lab.lan("lan", 1).hosts
        with host.enter():
            assert multicast_hosts() == (host.ip,)
            (before,) = asyncio.run(probe_multicast(multicast_hosts(), listen_s=0.1))
        assert before.heard_own
        host.namespace.nft("table ip t { chain i { type filter hook input priority 0; drop\n}\n}")
        with host.enter():
            (deaf,) = asyncio.run(probe_multicast(multicast_hosts(), listen_s=0.1))
        assert not deaf.heard_own
        host.namespace.nft("table ip u { chain o { type filter hook output priority 0; drop\n}\n}")
        with host.enter():
            (mute,) = asyncio.run(probe_multicast(multicast_hosts(), listen_s=0.1))
        assert mute.send_error

    def test_typed_peers_are_told_apart(self, lab: Lab):
        here, there, filtered = lab.lan("lan", 3).hosts
        filtered.namespace.nft(
            "table ip t { chain i { type filter hook input priority 0; meta l4proto udp drop\n}\n}"
        )
        nobody = here.ip.rpartition(".")[0] + ".200"

        async def look():
            with there.enter():
                listening = await QuicHost.start(KeyPair.generate(), listen_host=there.ip)
            dialling = await QuicHost.start(KeyPair.generate(), listen_host=here.ip)
            port = listening.addresses[0].port
            peers = [f"{there.ip}:{port}", f"{filtered.ip}:{port}", f"{nobody}:{port}"]
            try:
                return await diagnose_lan(dialling, peers, listen_s=0.1)
            finally:
                await dialling.close()
                await listening.close()

        with here.enter():
            findings = asyncio.run(look())
        texts = [finding.text for finding in findings if finding.name == "static-peer"]
        assert "A Piecework node answers" in texts[0]
        assert "nobody answers on UDP" in texts[1]
        assert "No machine has the address" in texts[2]


@pytest.fixture
def lab():
    from tests.netlab.requirements import what_is_missing

    if missing := what_is_missing():
        pytest.skip(missing)
    with Lab() as lab:
        yield lab
