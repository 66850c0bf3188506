from protocol.identity import KeyPair
from transport.address import Address
from transport.lan.discovery import Sighting
from transport.lan.sightings import NAMES_MAX, NAMES_PER_PEER_MAX, Sightings

A, B = (KeyPair.generate().peer_id for _ in range(2))


def seen(peer_id, *hosts: str) -> Sighting:
    return Sighting(peer_id, tuple(Address(host, 4001, peer_id) for host in hosts), "tag")


class Told:
    def __init__(self) -> None:
        self.said: list[tuple[str, object]] = []
        self.sightings = Sightings(
            lambda sighting: self.said.append(("found", sighting)),
            lambda peer_id: self.said.append(("lost", peer_id)),
        )


def test_peer_is_found_once_and_again_when_its_addresses_change():
    told = Told()
    told.sightings.put("a", seen(A, "10.0.0.1"))
    told.sightings.put("a", seen(A, "10.0.0.1"))
    told.sightings.put("a", seen(A, "10.0.0.2"))
    assert told.said == [("found", seen(A, "10.0.0.1")), ("found", seen(A, "10.0.0.2"))]


def test_lost_peer_is_told_once():
    told = Told()
    told.sightings.put("a", seen(A, "10.0.0.1"))
    told.sightings.drop("a")
    told.sightings.drop("a")
    assert told.said[1:] == [("lost", A)]
    assert "a" not in told.sightings


def test_name_that_claims_the_peer_too_takes_nothing_away():
    told = Told()
    told.sightings.put("a", seen(A, "10.0.0.1"))
    told.sightings.put("joke", seen(A, "10.6.6.6"))
    assert told.said[-1] == ("found", seen(A, "10.0.0.1", "10.6.6.6"))
    told.sightings.drop("joke")
    assert told.said[-1] == ("found", seen(A, "10.0.0.1"))


def test_name_that_becomes_another_peer():
    told = Told()
    told.sightings.put("x", seen(A, "10.0.0.1"))
    told.sightings.put("x", seen(B, "10.0.0.1"))
    assert told.said[1:] == [("lost", A), ("found", seen(B, "10.0.0.1"))]


def test_flood_of_names_is_bounded():
    told = Told()
    told.sightings.put("honest", seen(A, "10.0.0.1"))
    for number in range(NAMES_PER_PEER_MAX + 3):
        told.sightings.put(f"one-{number}", seen(B, "10.0.0.2"))
    assert told.sightings.refused_count == 3
    for number in range(NAMES_MAX):
        told.sightings.put(f"many-{number}", seen(KeyPair.generate().peer_id, "10.0.0.3"))
    assert len(told.sightings.names) == NAMES_MAX
    told.sightings.put("honest", seen(A, "10.0.0.9"))
    assert told.said[-1] == ("found", seen(A, "10.0.0.9"))
