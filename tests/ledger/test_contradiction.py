"""Proofs of equivocation: anyone can check one with the lease alone, and a false one convinces
nobody."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.contradiction import (
    PROOF_BYTES_MAX,
    EquivocationProof,
    contradicts,
    verify_proof,
)
from ledger.errors import AuditFailed
from protocol.envelope import seal
from tests.ledger.world import MARKET, OTHER, lease_of, receipt_of, receipt_record
from tests.protocol.samples import digest

LEASE = lease_of("lease", "hold")
ENVELOPE = seal(LEASE, MARKET).encode()


def proof(first: bytes, second: bytes) -> EquivocationProof:
    return EquivocationProof(ENVELOPE, first, second)


EQUAL_SEQUENCE = proof(receipt_of(LEASE, 1, 10), receipt_of(LEASE, 1, 20))
SAYS_LESS = proof(receipt_of(LEASE, 1, 20), receipt_of(LEASE, 2, 10))


@pytest.mark.parametrize("given_proof", [EQUAL_SEQUENCE, SAYS_LESS])
def test_a_proof_survives_its_file_and_holds(given_proof):
    data = given_proof.encode()
    assert len(data) <= PROOF_BYTES_MAX
    lease, first, second = verify_proof(EquivocationProof.decode(data), MARKET.peer_id)
    assert (lease, first.lease_id) == (LEASE, second.lease_id)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (proof(receipt_of(LEASE, 1, 10), receipt_of(LEASE, 1, 10)), "both receipts can be true"),
        (proof(receipt_of(LEASE, 1, 10), receipt_of(LEASE, 2, 20)), "both receipts can be true"),
        (proof(receipt_of(LEASE, 1, 10), receipt_of(LEASE, 1, 20, payer=OTHER)), "hold"),
        (proof(receipt_of(LEASE, 1, 10), receipt_of(LEASE, 1, 20, provider=OTHER)), "hold"),
        (proof(receipt_of(LEASE, 1, 10), receipt_of(lease_of("x", "hold"), 1, 20)), "hold"),
        (proof(receipt_of(LEASE, 1, 10), b"junk"), "hold"),
        (dataclasses.replace(EQUAL_SEQUENCE, lease_envelope=seal(LEASE, OTHER).encode()), "hold"),
    ],
    ids=["same", "grows", "payer", "provider", "other lease", "junk", "other market"],
)
def test_what_proves_nothing_is_said_to(bad, says):
    with pytest.raises(AuditFailed, match=says):
        verify_proof(bad, MARKET.peer_id)


@given(st.integers(0, 2**32), st.integers(1, 255))
def test_a_flipped_byte_breaks_the_file_or_the_proof(position, bits):
    data = bytearray(EQUAL_SEQUENCE.encode())
    data[position % len(data)] ^= bits
    with pytest.raises(AuditFailed):
        verify_proof(EquivocationProof.decode(bytes(data)), MARKET.peer_id)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_proof(data):
    with pytest.raises(AuditFailed):
        EquivocationProof.decode(data)


def test_the_order_is_no_matter():
    one, other = receipt_record(LEASE, 1, 20), receipt_record(LEASE, 2, 10)
    assert contradicts(one, other)
    assert contradicts(other, one)


def test_another_hash_after_the_same_step_contradicts():
    one = receipt_record(LEASE, 1, 20)
    again = receipt_record(LEASE, 2, 20, final=True)
    assert not contradicts(one, again)
    assert contradicts(one, dataclasses.replace(again, link_out_hash=digest("other")))


def test_more_after_a_final_one_contradicts_nothing_and_less_does():
    final = receipt_record(LEASE, 1, 20, final=True)
    assert not contradicts(final, receipt_record(LEASE, 2, 20, final=True))
    assert not contradicts(final, receipt_record(LEASE, 2, 30))
    assert contradicts(final, receipt_record(LEASE, 2, 10))
