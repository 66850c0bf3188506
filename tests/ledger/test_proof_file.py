"""`.tlog-proof` files: read again as written, checked with nothing else, no byte can be changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.checkpoint import split_note
from ledger.cosignature import add_lines, cosign
from ledger.errors import AuditFailed
from ledger.examine import CheckedReceipt, Examiner
from ledger.proof_file import LogProof, verify_proof
from ledger.tree import inclusion_proof, leaf_hash, subtree_of
from tests.ledger.test_audit import FIRST, LEAVES, PUBLISHED
from tests.ledger.world import MARKET, NOW_S, ORIGIN, OTHER, PROVIDER

NOTE = add_lines(PUBLISHED.note, [cosign(split_note(PUBLISHED.note)[0], PROVIDER, NOW_S)])


def proof_of(index):
    subtree = subtree_of([leaf_hash(leaf) for leaf in LEAVES])
    hashes = tuple(inclusion_proof(index, len(LEAVES), subtree))
    return LogProof(LEAVES[index], index, hashes, NOTE)


def test_the_format_is_the_specifications():
    lines = proof_of(1).encode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1].startswith("extra ")
    assert lines[2] == "index 1"
    assert "\n".join(lines[3 + len(proof_of(1).hashes) + 1 :]) == NOTE


@pytest.mark.parametrize("index", range(len(LEAVES)))
def test_each_entry_is_proven_by_its_file_alone(index):
    proof = LogProof.decode(proof_of(index).encode())
    assert proof == proof_of(index)
    checkpoint, witnesses = verify_proof(proof, MARKET.peer_id, origin=ORIGIN)
    assert checkpoint.size == len(LEAVES)
    assert [item.witness for item in witnesses] == [PROVIDER.peer_id]


def test_the_entry_says_who_carried_what():
    _, entry = Examiner(MARKET.peer_id).examine(proof_of(1).entry)
    assert isinstance(entry, CheckedReceipt)
    assert entry.terms.lease_id == FIRST.lease_id
    assert entry.mark.tokens == 20


def test_another_key_is_refused():
    with pytest.raises(AuditFailed):
        verify_proof(proof_of(1), OTHER.peer_id)


@given(position=st.integers(0, 100_000), flip=st.integers(1, 127))
def test_a_flipped_byte_is_refused(position, flip):
    data = bytearray(proof_of(1).encode().encode())
    data[position % len(data)] ^= flip
    try:
        _, witnesses = verify_proof(LogProof.decode(data.decode()), MARKET.peer_id)
    except (AuditFailed, UnicodeDecodeError):
        return
    assert not witnesses  # the name of a witness is a stranger's now: it no longer counts


@given(st.text())
def test_arbitrary_text_raises_only_audit_failed(text):
    with pytest.raises(AuditFailed):
        LogProof.decode(text)
