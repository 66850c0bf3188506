"""Signed answers on disk: what is kept, what is refused, and what a torn file leaves."""

import pytest

from node.serve.answer_log import AnswerLog
from protocol.errors import RemoteProtocolError, WrongSigner
from protocol.identity import KeyPair
from tests.node.serve.answers import signed_results
from tests.protocol.samples import MARKET, PROVIDER

OTHER = KeyPair(b"x" * 32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.log"


def log_at(path, **settings) -> AnswerLog:
    return AnswerLog(path, market=MARKET.peer_id, provider=PROVIDER.peer_id, **settings)


def test_what_is_kept_is_there_again(path):
    first, second = signed_results([b"a", b"b"]), signed_results([b"c"], "rejected", "too late")
    log = log_at(path)
    log.keep(first)
    log.keep(second)
    again = log_at(path)
    assert again.answers() == [first, second]
    assert again.refused() == {"too late": 1}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (signed_results([b"a"], market=OTHER), WrongSigner),
        (signed_results([b"a"], provider=OTHER), RemoteProtocolError),
    ],
    ids=["not the marketplace", "to another provider"],
)
def test_a_foreign_answer_is_not_kept(path, answer, error):
    log = log_at(path)
    with pytest.raises(error):
        log.keep(answer)
    assert log_at(path).answers() == []


def test_a_torn_end_is_cut_off(path):
    log = log_at(path)
    log.keep(signed_results([b"a"]))
    whole = path.read_bytes()
    log.keep(signed_results([b"b"]))
    path.write_bytes(path.read_bytes()[:-1])
    assert len(log_at(path).answers()) == 1
    assert path.read_bytes() == whole


def test_a_full_file_loses_its_older_half(path):
    log = log_at(path, bytes_max=2000)
    answers = [signed_results([bytes([number])]) for number in range(20)]
    for answer in answers:
        log.keep(answer)
    kept = log_at(path).answers()
    assert kept == answers[-len(kept) :]
    assert path.stat().st_size <= 2000 + 8 * len(kept)
