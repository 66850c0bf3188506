"""Who was found gone is left out for a while, and no longer."""

from node.head.absent import ABSENT_S, PEERS_MAX, AbsentPeers
from protocol.identity import KeyPair

ONE, TWO = KeyPair(b"1" * 32).peer_id, KeyPair(b"2" * 32).peer_id


def test_a_peer_is_left_out_for_a_while():
    absent = AbsentPeers()
    absent.note(ONE, 10.0)
    absent.note(TWO, 12.0)
    assert absent.now(12.0) == (ONE, TWO)
    assert absent.now(10.0 + ABSENT_S) == (TWO,)
    assert absent.now(12.0 + ABSENT_S) == ()


def test_who_is_found_gone_again_stays_out_longer():
    absent = AbsentPeers()
    absent.note(ONE, 10.0)
    absent.note(ONE, 15.0)
    assert absent.now(20.0) == (ONE,)


def test_only_so_many_are_remembered():
    absent = AbsentPeers()
    peers = [KeyPair(n.to_bytes(32, "big")).peer_id for n in range(PEERS_MAX + 3)]
    for peer in peers:
        absent.note(peer, 1.0)
    assert absent.now(1.0) == tuple(peers[3:])
