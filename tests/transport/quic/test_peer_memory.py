from protocol.identity import KeyPair, PeerId
from transport.quic.peer_memory import FORGET_S, PEERS_MAX, LinkEstimate, PeerMemory

PEER = KeyPair(bytes(32)).peer_id
SLOW, FAST = LinkEstimate(6e5, 0.1), LinkEstimate(2e6, 0.03)


def test_the_last_estimate_counts():
    memory = PeerMemory()
    assert memory.recall(PEER, 0) is None
    memory.remember(PEER, SLOW, 1)
    memory.remember(PEER, FAST, 2)
    assert memory.recall(PEER, 3) == FAST


def test_a_relays_rate_is_not_the_direct_ways():
    memory = PeerMemory()
    memory.remember(PEER, SLOW, 0, relayed=True)
    assert memory.recall(PEER, 0) is None
    assert memory.recall(PEER, 0, relayed=True) == SLOW


def test_an_old_estimate_is_worth_nothing():
    memory = PeerMemory()
    memory.remember(PEER, FAST, 0)
    assert memory.recall(PEER, FORGET_S + 1) is None


def test_the_oldest_peers_are_forgotten():
    memory = PeerMemory()
    peers = [PeerId(i.to_bytes(32, "big")) for i in range(PEERS_MAX + 1)]
    for peer in peers:
        memory.remember(peer, FAST, 0)
    assert memory.recall(peers[0], 0) is None
    assert memory.recall(peers[1], 0) == FAST
