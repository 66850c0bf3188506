"""A marketplace's signature under what it made of a batch."""

import dataclasses

import pytest

from protocol.acknowledgement import (
    Acknowledgement,
    ReceiptResult,
    SignedResults,
    results_digest,
)
from protocol.envelope import seal
from protocol.errors import RemoteProtocolError, WrongSigner
from protocol.identity import KeyPair
from tests.protocol.samples import MARKET, NOW_S, PROVIDER, digest

RESULTS = (
    ReceiptResult(digest("one"), "accepted", leaf_index=7),
    ReceiptResult(digest("two"), "rejected", "too late"),
)
OTHER = KeyPair(b"x" * 32)


def signed(results=RESULTS, key=MARKET) -> SignedResults:
    record = Acknowledgement(PROVIDER.peer_id, results_digest(results), len(results), NOW_S)
    return SignedResults(results, seal(record, key).encode())


def test_it_survives_its_file_and_binds_every_result():
    answer = SignedResults.decode(signed().encode())
    said = answer.verify(market=MARKET.peer_id, provider=PROVIDER.peer_id)
    assert (said.count, said.at_s, said.provider) == (2, NOW_S, PROVIDER.peer_id)


@pytest.mark.parametrize(
    "results",
    [RESULTS[::-1], RESULTS[:1], (dataclasses.replace(RESULTS[0], leaf_index=8), RESULTS[1])],
    ids=["another order", "one less", "another place"],
)
def test_other_results_are_not_what_was_signed(results):
    answer = dataclasses.replace(signed(), results=results)
    with pytest.raises(RemoteProtocolError, match="other results"):
        answer.verify(market=MARKET.peer_id, provider=PROVIDER.peer_id)


def test_it_is_one_marketplaces_word_to_one_provider():
    with pytest.raises(WrongSigner):
        signed(key=OTHER).verify(market=MARKET.peer_id, provider=PROVIDER.peer_id)
    with pytest.raises(RemoteProtocolError, match="another provider"):
        signed().verify(market=MARKET.peer_id, provider=OTHER.peer_id)


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_limits(count):
    with pytest.raises(RemoteProtocolError):
        Acknowledgement(PROVIDER.peer_id, digest("x"), count, NOW_S)
