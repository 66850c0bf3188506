"""Signed notes: one golden vector, the round trip, and everything a forger may try."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import checkpoint
from ledger.checkpoint import (
    NOTE_BYTES_MAX,
    Checkpoint,
    open_checkpoint,
    origin_of,
    sign_checkpoint,
)
from ledger.errors import AuditFailed
from protocol.identity import PeerId
from tests.ledger.world import MARKET, ORIGIN, OTHER

CHECKPOINT = Checkpoint(ORIGIN, 42, bytes(range(32)))
NOTE = sign_checkpoint(CHECKPOINT, MARKET)
# Go's golang.org/x/mod/sumdb/note, package example: a note by the key "PeterNeumann"
GO_KEY = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZ"
    "SNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_round_trip():
    assert open_checkpoint(NOTE, MARKET.peer_id) == CHECKPOINT
    assert open_checkpoint(NOTE, MARKET.peer_id, origin=ORIGIN) == CHECKPOINT


def test_text_is_three_lines():
    assert CHECKPOINT.text() == (
        "piecework/test\n42\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    )


KEY_ID = checkpoint.key_id(ORIGIN, checkpoint.ED25519, MARKET.peer_id)


def test_key_id_and_signature_are_those_of_gos_note_package():
    text, _, signatures = GO_NOTE.rpartition("\n\n")
    checkpoint._verify_signature(
        text + "\n", signatures.splitlines(), "PeterNeumann", PeerId(GO_KEY[1:])
    )


def test_a_witness_signature_beside_ours_is_ignored():
    note = NOTE + "— witness.example/w1 " + base64.b64encode(bytes(76)).decode() + "\n"
    assert open_checkpoint(note, MARKET.peer_id) == CHECKPOINT


def test_extension_lines_are_signed_and_ignored():
    text = CHECKPOINT.text() + "extension 1\n"
    blob = checkpoint.key_id(ORIGIN, checkpoint.ED25519, MARKET.peer_id) + MARKET.sign(
        text.encode()
    )
    note = f"{text}\n— {ORIGIN} {base64.b64encode(blob).decode()}\n"
    assert open_checkpoint(note, MARKET.peer_id) == CHECKPOINT


@given(position=st.integers(0, len(NOTE) - 1), character=st.characters(codec="ascii"))
def test_one_changed_character_is_refused_or_says_the_same(position, character):
    changed = NOTE[:position] + character + NOTE[position + 1 :]
    try:
        opened = open_checkpoint(changed, MARKET.peer_id)
    except AuditFailed:
        return
    assert opened == CHECKPOINT


@given(st.text())
def test_arbitrary_text_raises_only_audit_failed(text):
    with pytest.raises(AuditFailed):
        open_checkpoint(text, MARKET.peer_id)


@pytest.mark.parametrize(
    "body",
    [
        "piecework/test\n042\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "piecework/test\n-1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "piecework/test\n" + "9" * 40 + "\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "piecework/test\n42\nAAEC\n",
        "piecework/test\n42\nnot base64\n",
        "piecework/test\n42\n",
    ],
)
def test_malformed_text_is_refused_even_when_signed(body):
    blob = checkpoint.key_id(ORIGIN, checkpoint.ED25519, MARKET.peer_id) + MARKET.sign(
        body.encode()
    )
    with pytest.raises(AuditFailed):
        open_checkpoint(f"{body}\n— {ORIGIN} {base64.b64encode(blob).decode()}\n", MARKET.peer_id)


def test_another_key_another_origin_and_a_huge_note_are_refused():
    with pytest.raises(AuditFailed, match="not signed by"):
        open_checkpoint(NOTE, OTHER.peer_id)
    with pytest.raises(AuditFailed, match="of the log"):
        open_checkpoint(NOTE, MARKET.peer_id, origin="piecework/other")
    with pytest.raises(AuditFailed, match="above"):
        open_checkpoint(NOTE + "x" * NOTE_BYTES_MAX, MARKET.peer_id)


def test_origin_of_a_network():
    assert origin_of("main") == "piecework/main"
    for network in ("", "a b", "a+b", "a\nb", "ä"):
        with pytest.raises(AuditFailed):
            origin_of(network)
