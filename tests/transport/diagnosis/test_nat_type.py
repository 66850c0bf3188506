"""Every kind of NAT is told from what reflectors saw of it."""

import pytest

from protocol.reach import Filtering, Mapping
from transport.diagnosis.nat_type import NatObservation, Sighting, classify

LOCAL = ("192.168.1.2", 5000)
OUTSIDE = "5.6.7.8"
REFLECTORS = (("9.9.9.1", 4001), ("9.9.9.1", 4002), ("9.9.9.2", 4001), ("9.9.9.2", 4002))


def observe(*ports: int, host: str = OUTSIDE, local=LOCAL, **more) -> NatObservation:
    """One sighting a port, by the reflectors in their order."""
    seen = tuple(
        Sighting(reflector, (host, port))
        for reflector, port in zip(REFLECTORS, ports, strict=False)
    )
    return NatObservation(local, seen, **more)


@pytest.mark.parametrize(
    ("observed", "mapping", "filtering", "keeps_port", "name"),
    [
        (
            observe(5000, 5000, host=LOCAL[0], other_port_heard=True),
            Mapping.NONE, Filtering.OPEN, True, "no NAT",
        ),
        (
            observe(5000, 5000, host=LOCAL[0], other_port_heard=False),
            Mapping.NONE, Filtering.PORT_DEPENDENT, True, "firewall without NAT",
        ),
        (
            observe(5000, 5000, 5000, 5000, other_port_heard=True),
            Mapping.INDEPENDENT, Filtering.OPEN, True, "full or restricted cone NAT",
        ),
        (
            observe(5000, 5000, other_port_heard=False),
            Mapping.INDEPENDENT, Filtering.PORT_DEPENDENT, True, "port-restricted NAT",
        ),
        (
            observe(41000, 41000, 41000, other_port_heard=False),
            Mapping.INDEPENDENT, Filtering.PORT_DEPENDENT, False, "port-restricted NAT",
        ),
        (
            observe(41000),
            Mapping.INDEPENDENT, Filtering.UNKNOWN, False, "cone NAT",
        ),
        (
            observe(41000, 41001, 41002, other_port_heard=False),
            Mapping.DEPENDENT, Filtering.PORT_DEPENDENT, False, "symmetric NAT",
        ),
        (
            observe(5000, 5000, 41002, 41002, other_port_heard=True),
            Mapping.DEPENDENT, Filtering.OPEN, False, "symmetric NAT",
        ),
        (
            observe(tcp_answers=True),
            Mapping.BLOCKED, Filtering.UNKNOWN, True, "UDP blocked",
        ),
        (
            observe(),
            Mapping.UNKNOWN, Filtering.UNKNOWN, True, "unknown",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_nat_is_told_by_its_sightings(observed, mapping, filtering, keeps_port, name):
    nat = classify(observed)
    assert (nat.mapping, nat.filtering, nat.name) == (mapping, filtering, name)
    assert nat.keeps_port == keeps_port
    assert nat.outside == (observed.sightings[0].seen if observed.sightings else None)


@pytest.mark.parametrize(
    ("more", "is_double", "is_carrier_grade"),
    [
        ({}, False, False),
        ({"hops": ("192.168.1.1", "100.64.0.1", "5.6.7.1")}, True, True),
        ({"hops": ("192.168.1.1", "192.168.0.1", "5.6.7.1")}, True, False),
        ({"hops": ("192.168.1.1", "10.20.0.1", "5.6.7.1")}, False, False),
        ({"hops": ("192.168.1.1", "5.6.7.1", "192.168.0.1")}, False, False),
        ({"router_outside": OUTSIDE}, False, False),
        ({"router_outside": "192.168.0.5"}, True, False),
        ({"router_outside": "100.100.0.5"}, True, True),
        ({"local": ("100.64.3.4", 5000)}, True, True),
    ],
    ids=["plain", "carrier hop", "two routers", "provider's own hop", "private hop far out",
         "router knows", "router behind router", "router behind carrier", "no home router"],
)  # fmt: skip
def test_second_nat_is_told_from_the_way_out(more, is_double, is_carrier_grade):
    nat = classify(observe(5000, 5000, **more))
    assert (nat.is_double, nat.is_carrier_grade) == (is_double, is_carrier_grade)


def test_machine_with_a_public_address_is_behind_no_second_nat():
    observed = observe(5000, local=(OUTSIDE, 5000), hops=("192.168.1.1", "100.64.0.1"))
    nat = classify(observed)
    assert nat.mapping is Mapping.NONE
    assert not nat.is_double
    assert not nat.is_carrier_grade
