"""Witnesses: cosign what continues, refuse what does not, and prove a fork to a third person."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.checkpoint import Checkpoint, key_id, open_checkpoint, sign_checkpoint, split_note
from ledger.cosignature import (
    ED25519_COSIGNATURE,
    add_lines,
    cosign,
    cosignature_text,
    cosignatures_of,
    verify_cosignature,
    witness_name,
)
from ledger.errors import AuditFailed
from ledger.fork import ForkProof, ForkProven, verify_fork
from ledger.tree import (
    EMPTY_ROOT,
    consistency_proof,
    leaf_hash,
    subtree_of,
    tree_root,
)
from ledger.witness import WitnessState, observe, prove_fork
from protocol.identity import PeerId
from tests.ledger.world import MARKET, NOW_S, ORIGIN, OTHER, PROVIDER

HONEST = [leaf_hash(f"entry {index}".encode()) for index in range(70)]
FORKED = [leaf_hash(f"entry {'x' if index == 3 else index}".encode()) for index in range(70)]


def note_of(leaves, size, key=MARKET):
    root = tree_root(size, subtree_of(leaves))
    return sign_checkpoint(Checkpoint(ORIGIN, size, root), key)


def proof_of(leaves, old, new):
    return consistency_proof(old, new, subtree_of(leaves))


def seen(state, note, proof=(), witness=PROVIDER):
    return observe(
        state, note, proof, log_key=MARKET.peer_id, witness=witness, now_s=NOW_S, origin=ORIGIN
    )


def state_at(size, leaves=HONEST):
    return seen(None, note_of(leaves, size)).state


class TestCosignatures:
    def test_key_id_is_that_of_a_published_witness_key(self):
        # the vkey of a public witness, as in the tests of transparency-dev/formats
        name, expected = "remora.n621.de", "da77ade7"
        material = "BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
        key = base64.b64decode(material)
        assert key[:1] == ED25519_COSIGNATURE
        assert key_id(name, ED25519_COSIGNATURE, PeerId(key[1:])).hex() == expected

    def test_what_is_signed_is_the_specifications_example(self):
        text = (
            "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        )
        assert cosignature_text(text, 1679315147).decode() == (
            "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
            "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
        )

    def test_the_specifications_line_has_its_time_where_we_look_for_it(self):
        line = (
            "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dl"
            "rDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA=="
        )
        blob = base64.b64decode(line.split(" ")[2])
        assert (len(blob), int.from_bytes(blob[4:12], "big")) == (76, 1679315147)

    def test_a_line_byte_for_byte(self):
        text, _ = split_note(note_of(HONEST, 7))
        name = witness_name(PROVIDER.peer_id)
        signed = f"cosignature/v1\ntime {NOW_S}\n{text}".encode()
        blob = (
            key_id(name, b"\x04", PROVIDER.peer_id)
            + NOW_S.to_bytes(8, "big")
            + PROVIDER.sign(signed)
        )
        assert cosign(text, PROVIDER, NOW_S) == f"— {name} {base64.b64encode(blob).decode()}"

    def test_nodes_lines_are_found_and_strangers_passed_over(self):
        note = note_of(HONEST, 7)
        text, _ = split_note(note)
        stranger = "— witness.example/w1 " + base64.b64encode(bytes(76)).decode()
        note = add_lines(note, [cosign(text, PROVIDER, NOW_S), stranger, cosign(text, OTHER, 5)])
        found = cosignatures_of(note)
        assert {(item.witness, item.time_s) for item in found} == {
            (PROVIDER.peer_id, NOW_S),
            (OTHER.peer_id, 5),
        }
        assert open_checkpoint(note, MARKET.peer_id, origin=ORIGIN).size == 7

    def test_another_text_another_key_or_time_is_refused(self):
        text, _ = split_note(note_of(HONEST, 7))
        other, _ = split_note(note_of(HONEST, 8))
        line, name = cosign(text, PROVIDER, NOW_S), witness_name(PROVIDER.peer_id)
        verify_cosignature(text, line, name, PROVIDER.peer_id)
        for wrong in (
            (other, line, name, PROVIDER.peer_id),
            (text, line, name, OTHER.peer_id),
            (text, line, "witness.example", PROVIDER.peer_id),
        ):
            with pytest.raises(AuditFailed):
                verify_cosignature(*wrong)

    @given(position=st.integers(0, 10_000), flip=st.integers(1, 127))
    def test_a_flipped_byte_of_a_cosigned_note_is_named(self, position, flip):
        text, _ = split_note(note_of(HONEST, 7))
        note = add_lines(note_of(HONEST, 7), [cosign(text, PROVIDER, NOW_S)])
        data = bytearray(note.encode())
        data[position % len(data)] ^= flip
        try:
            changed = data.decode()
            open_checkpoint(changed, MARKET.peer_id, origin=ORIGIN)
            found = cosignatures_of(changed)
        except (AuditFailed, UnicodeDecodeError):
            return
        # a name that is no node's any more is a stranger's: the note has a witness less
        assert found == ()


class TestObserve:
    @given(old=st.integers(0, 70), new=st.integers(0, 70))
    def test_what_only_grew_is_cosigned(self, old, new):
        old, new = sorted((old, new))
        observed = seen(state_at(old), note_of(HONEST, new), proof_of(HONEST, old, new))
        text, _ = split_note(observed.state.note)
        verify_cosignature(text, observed.line, witness_name(PROVIDER.peer_id), PROVIDER.peer_id)
        assert observed.state == WitnessState.of(note_of(HONEST, new), MARKET.peer_id)

    def test_going_back_is_not_cosigned(self):
        with pytest.raises(AuditFailed, match="before"):
            seen(state_at(9), note_of(HONEST, 8))

    def test_a_bad_proof_is_no_fork(self):
        with pytest.raises(AuditFailed) as caught:
            seen(state_at(9), note_of(HONEST, 20), [bytes(32)] * 3)
        assert not isinstance(caught.value, ForkProven)

    def test_another_log_or_another_key(self):
        with pytest.raises(AuditFailed):
            seen(None, note_of(HONEST, 8, key=OTHER))
        strange = sign_checkpoint(Checkpoint("piecework/other", 0, EMPTY_ROOT), MARKET)
        with pytest.raises(AuditFailed):
            seen(state_at(0), strange)

    def test_an_empty_log_has_one_root(self):
        with pytest.raises(AuditFailed):
            seen(None, sign_checkpoint(Checkpoint(ORIGIN, 0, bytes(32)), MARKET))


class TestForks:
    def forked(self, old, new):
        """What a witness of `old` honest entries keeps when it is shown `new` forked ones."""
        state, note = state_at(old), note_of(FORKED, new)
        with pytest.raises((ForkProven, AuditFailed)) as caught:
            seen(state, note, proof_of(FORKED, old, new))
        if not isinstance(caught.value, ForkProven):
            # a proof from a power of two takes the older root on trust: the tiles tell
            with pytest.raises(ForkProven) as caught:
                prove_fork(state, note, MARKET.peer_id, subtree_of(FORKED))
        return caught.value.proof

    @pytest.mark.parametrize(
        ("old", "new"), [(9, 9), (9, 20), (8, 20), (4, 5), (64, 70), (69, 70), (5, 64)]
    )
    def test_two_histories_are_proven_to_a_third_person(self, old, new):
        text = self.forked(old, new).encode()
        assert len(text.encode()) < 5000
        older, newer = verify_fork(ForkProof.decode(text), MARKET.peer_id)
        assert (older.size, newer.size) == (old, new)

    def test_the_longest_proof_is_below_5_kb(self):
        notes = [
            sign_checkpoint(Checkpoint(ORIGIN, 2**63 - 2, bytes([byte]) * 32), MARKET)
            for byte in (1, 2)
        ]
        assert len(ForkProof(notes[0], notes[1], (bytes(32),) * 64).encode().encode()) < 5000

    def test_an_honest_log_cannot_be_accused(self):
        for old, new in ((9, 20), (8, 20), (9, 9)):
            proof = ForkProof(
                note_of(HONEST, old), note_of(HONEST, new), tuple(proof_of(HONEST, old, new))
            )
            with pytest.raises(AuditFailed):
                verify_fork(proof, MARKET.peer_id)
        prove_fork(state_at(8), note_of(HONEST, 20), MARKET.peer_id, subtree_of(HONEST))

    def test_somebody_elses_notes_prove_nothing(self):
        proof = ForkProof(note_of(HONEST, 9, key=OTHER), note_of(FORKED, 9, key=OTHER))
        with pytest.raises(AuditFailed):
            verify_fork(proof, MARKET.peer_id)
        mixed = ForkProof(note_of(HONEST, 9), note_of(FORKED, 9, key=OTHER))
        with pytest.raises(AuditFailed):
            verify_fork(mixed, MARKET.peer_id)

    @given(position=st.integers(0, 10_000), flip=st.integers(1, 127))
    def test_a_flipped_byte_never_accuses_somebody_else(self, position, flip):
        data = bytearray(self.forked(9, 20).encode().encode())
        data[position % len(data)] ^= flip
        try:
            older, newer = verify_fork(ForkProof.decode(data.decode()), MARKET.peer_id)
        except (AuditFailed, UnicodeDecodeError):
            return
        assert (older.size, newer.size) == (9, 20)  # a blank or an escape: it says the same

    @given(st.text() | st.builds(json.dumps, st.dictionaries(st.text(), st.integers())))
    def test_arbitrary_files_raise_only_audit_failed(self, text):
        with pytest.raises(AuditFailed):
            ForkProof.decode(text)
