from node.serve.prefix import scoped_prefix
from protocol.identity import KeyPair

ONE, OTHER = (KeyPair(bytes([n]) * 32).peer_id for n in (1, 2))
NAMES = (b"a" * 16, b"b" * 16)


def test_two_heads_never_meet_whatever_they_send():
    assert set(scoped_prefix(ONE, NAMES)).isdisjoint(scoped_prefix(OTHER, NAMES))


def test_a_head_finds_its_own_again_in_the_same_order():
    kept = scoped_prefix(ONE, NAMES)
    assert len(set(kept)) == 2
    assert scoped_prefix(ONE, NAMES[:1]) == kept[:1]
    assert scoped_prefix(ONE, ()) == ()
