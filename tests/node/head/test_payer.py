"""What the payer signs for each hop, and what it keeps when a hop is replaced."""

import dataclasses

import pytest

from node.head.payer import Payer
from protocol.errors import LimitExceeded, PieceworkError, RemoteProtocolError
from protocol.frame import Meter
from protocol.identity import KeyPair
from protocol.money import Work
from protocol.receipt import cosign, open_receipt
from tests.protocol.samples import HEAD, LEASE, PAYER, PROVIDER

OTHER = KeyPair(b"o" * 32)
FIRST = dataclasses.replace(LEASE, hop_index=0, previous=HEAD.peer_id)
REPLACEMENT = dataclasses.replace(
    LEASE, lease_id=b"replaced by this", provider=OTHER.peer_id, hold_id=b"one hold further"
)


def meter(tokens, *, epoch=0, steps=1, final=False) -> Meter:
    work = Work(prefill_token_layers=4 * tokens, bytes_in=100, bytes_out=100)
    return Meter(LEASE.session_id, epoch, steps, tokens, work, b"i" * 32, b"o" * 32, final)


@pytest.fixture
def payer():
    return Payer(PAYER, [FIRST, LEASE])


def pay(payer, index, what, key=PROVIDER):
    """Sign, and have the hop countersign."""
    envelope = payer.sign(index, what)
    receipt = open_receipt(envelope, what_lease(payer, index, key))
    payer.acknowledge(index, receipt.sequence, cosign(envelope, key).countersignature)
    return receipt


def what_lease(payer, index, key):
    if key is OTHER:
        return REPLACEMENT
    return [FIRST, LEASE][index]


def test_a_receipt_says_its_epoch(payer):
    assert pay(payer, 1, meter(32)).epoch == 0
    second = pay(payer, 1, meter(48, epoch=2))
    assert (second.epoch, second.steps, second.sequence) == (2, 1, 2)


def test_a_replacement_begins_at_one_under_its_own_lease(payer):
    pay(payer, 0, meter(32))
    old = pay(payer, 1, meter(32, final=True))
    assert payer.is_settled(1)
    payer.replace(1, REPLACEMENT)
    assert not payer.is_settled(1)
    assert set(payer.cosigned) == {0}
    (kept,) = payer.past
    assert kept.open(LEASE) == old
    first = pay(payer, 1, meter(16, epoch=1), OTHER)
    assert (first.sequence, first.lease_id) == (1, REPLACEMENT.lease_id)
    assert payer.cosigned[1].open(REPLACEMENT) == first
    assert pay(payer, 0, meter(40, epoch=1)).sequence == 2


def test_a_hop_that_never_countersigned_leaves_nothing(payer):
    payer.sign(1, meter(32))
    payer.replace(1, REPLACEMENT)
    assert payer.past == []
    with pytest.raises(RemoteProtocolError):
        payer.acknowledge(1, 1, b"s" * 64)


def test_a_replaced_hops_signature_is_not_its_successors(payer):
    payer.replace(1, REPLACEMENT)
    envelope = payer.sign(1, meter(16, epoch=1))
    with pytest.raises(PieceworkError):
        payer.acknowledge(1, 1, cosign(envelope, PROVIDER).countersignature)
    assert 1 not in payer.cosigned


def test_nothing_is_signed_beyond_the_lease(payer):
    with pytest.raises(LimitExceeded):
        payer.sign(1, meter(10_000))
    assert pay(payer, 1, meter(32)).sequence == 1


def test_an_old_acknowledgement_is_passed_over(payer):
    envelope = payer.sign(1, meter(16))
    payer.sign(1, meter(32))
    payer.acknowledge(1, 1, cosign(envelope, PROVIDER).countersignature)
    assert payer.cosigned == {}
