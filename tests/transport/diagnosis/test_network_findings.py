"""What was measured becomes a level, a sentence and a fix."""

import pytest

from protocol.identity import KeyPair
from transport.address import TcpAddress
from transport.diagnosis.bandwidth_probe import Bandwidth
from transport.diagnosis.finding import Level
from transport.diagnosis.nat_type import NatObservation, Sighting, classify
from transport.diagnosis.network_findings import (
    Ipv6Observation,
    PortMappingObservation,
    RelayReport,
    bandwidth_finding,
    ipv6_finding,
    nat_findings,
    port_mapping_finding,
    relay_findings,
)

RELAY = TcpAddress("9.9.9.1", 4001, KeyPair.generate().peer_id)
LOCAL = ("192.168.1.2", 5000)


def nat(*ports: int, **more):
    seen = tuple(
        Sighting(("9.9.9.1", 4001 + at), ("5.6.7.8", port)) for at, port in enumerate(ports)
    )
    return classify(NatObservation(LOCAL, seen, **more))


CONE = nat(5000, 5000, other_port_heard=False)
SYMMETRIC = nat(41000, 41001)
CARRIER = nat(5000, 5000, hops=("192.168.1.1", "100.64.0.1"))
BLOCKED = nat(tcp_answers=True)


def test_dead_relay_is_grave_only_where_no_other_lives():
    dead = RelayReport(RELAY, reason="connection refused")
    living = RelayReport(RELAY, round_trip_s=0.04)
    assert [f.level for f in relay_findings((dead,))] == [Level.FAIL]
    assert [f.level for f in relay_findings((dead, living))] == [Level.WARN, Level.OK]


def test_far_relay_and_none_at_all_are_worth_a_word():
    assert relay_findings((RelayReport(RELAY, round_trip_s=0.5),))[0].level is Level.WARN
    (finding,) = relay_findings(())
    assert finding.level is Level.WARN
    assert "--relay" in finding.fix


@pytest.mark.parametrize(
    ("nature", "names", "level"),
    [
        (CONE, ["udp", "nat"], Level.OK),
        (SYMMETRIC, ["udp", "nat"], Level.WARN),
        (CARRIER, ["udp", "nat"], Level.WARN),
        (BLOCKED, ["udp"], Level.WARN),
        (nat(), ["udp"], Level.WARN),
    ],
    ids=["cone", "symmetric", "carrier", "blocked", "unknown"],
)
def test_nat_is_a_finding_with_a_fix_where_it_matters(nature, names, level):
    findings = nat_findings(nature)
    assert [finding.name for finding in findings] == names
    assert findings[-1].level is level
    assert bool(findings[-1].fix) == (level is not Level.OK)


@pytest.mark.parametrize(
    ("observed", "nature", "level"),
    [
        (Ipv6Observation(True, True), CONE, Level.OK),
        (Ipv6Observation(True, None), CONE, Level.OK),
        (Ipv6Observation(True, False), CONE, Level.WARN),
        (Ipv6Observation(False, None), CONE, Level.OK),
        (Ipv6Observation(False, None), SYMMETRIC, Level.WARN),
        (Ipv6Observation(False, None), CARRIER, Level.WARN),
        (Ipv6Observation(False, None), None, Level.OK),
    ],
)
def test_ipv6_is_missed_only_where_ipv4_is_in_trouble(observed, nature, level):
    assert ipv6_finding(observed, nature).level is level


@pytest.mark.parametrize(
    ("observed", "nature", "level"),
    [
        (PortMappingObservation("UPnP", "5.6.7.8"), SYMMETRIC, Level.OK),
        (PortMappingObservation(), SYMMETRIC, Level.WARN),
        (PortMappingObservation(), CONE, Level.OK),
        (PortMappingObservation(), None, Level.OK),
    ],
)
def test_port_mapping_is_missed_only_where_punching_fails(observed, nature, level):
    assert port_mapping_finding(observed, nature).level is level


def test_slow_uplink_is_worth_a_word_and_the_measurement_does_not_boast():
    assert bandwidth_finding(Bandwidth(2.04, True, 0.02)).level is Level.WARN
    assert bandwidth_finding(Bandwidth(2.04, True, 0.02)).text.startswith("2.0 Mbit/s")
    assert "2.0% lost" in bandwidth_finding(Bandwidth(2.04, True, 0.02)).text
    assert bandwidth_finding(Bandwidth(18.6, True, 0.0)).level is Level.OK
    assert bandwidth_finding(Bandwidth(127.0, False, 0.0)).text.startswith("More than 127")
