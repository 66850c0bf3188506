"""What a hop keeps of what it has earned, against honest, confused and dishonest payers."""

import asyncio
import dataclasses

import pytest

from node.errors import MarketUnreachable
from node.serve.answer_log import AnswerLog
from node.serve.collector import Collector
from node.serve.receipt_log import ReceiptLog
from protocol.envelope import seal
from protocol.errors import (
    LimitExceeded,
    PieceworkError,
    RemoteProtocolError,
    SignatureInvalid,
    WrongSigner,
)
from protocol.identity import KeyPair
from protocol.money import Work, amount_nanos
from protocol.receipt import CosignedReceipt
from tests.node.serve.answers import signed_results
from tests.protocol.samples import LEASE, MARKET, PAYER, PROVIDER, RECEIPT


class Sink:
    """A marketplace that can be away, and that can refuse."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.away = 0
        self.status, self.reason = "accepted", ""
        self.market = MARKET

    async def hand_in(self, batch):
        if self.away:
            self.away -= 1
            raise MarketUnreachable("away")
        self.batches.append(list(batch))
        return signed_results(batch, self.status, self.reason, market=self.market)


def receipt(sequence=1, *, tokens=32, final=False, **change):
    work = Work(prefill_token_layers=4 * tokens, bytes_in=100, bytes_out=100)
    record = dataclasses.replace(
        RECEIPT, lease_id=LEASE.lease_id, sequence=sequence, tokens=tokens, steps=sequence,
        work=work, amount_nanos=amount_nanos(work, LEASE.rates), final=final,
    )  # fmt: skip
    return dataclasses.replace(record, **change)


def signed(record, key=PAYER) -> bytes:
    return seal(record, key).encode()


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
async def collector(tmp_path, sink):
    made = Collector(PROVIDER, ReceiptLog(tmp_path / "receipts.log"), sink)
    yield made
    await made.close(timeout_s=1)


async def test_a_receipt_is_countersigned_over_the_very_bytes(collector):
    envelope = signed(receipt())
    _, countersignature = await collector.collect(envelope, LEASE)
    CosignedReceipt(envelope, countersignature).open(LEASE)


@pytest.mark.parametrize(
    ("envelope", "error"),
    [
        (signed(receipt(), KeyPair(b"x" * 32)), WrongSigner),
        (signed(receipt(lease_id=b"y" * 16)), WrongSigner),
        (signed(receipt(amount_nanos=1)), LimitExceeded),
        (b"garbage", RemoteProtocolError),
        (signed(receipt())[:-1] + b"\0", SignatureInvalid),
    ],
    ids=["foreign key", "foreign lease", "wrong amount", "garbage", "forged"],
)
async def test_a_bad_receipt_is_refused_and_not_kept(collector, envelope, error):
    with pytest.raises(PieceworkError) as caught:
        await collector.collect(envelope, LEASE)
    assert isinstance(caught.value, error)
    assert collector.pending == 0


async def test_the_same_receipt_again_is_acknowledged_again(collector):
    envelope = signed(receipt())
    assert await collector.collect(envelope, LEASE) == await collector.collect(envelope, LEASE)


async def test_an_older_one_and_one_that_takes_work_back_are_refused(collector):
    await collector.collect(signed(receipt(2, tokens=64)), LEASE)
    with pytest.raises(RemoteProtocolError, match="newer"):
        await collector.collect(signed(receipt(1)), LEASE)
    with pytest.raises(LimitExceeded, match="takes back"):
        await collector.collect(signed(receipt(3, tokens=32)), LEASE)


async def test_steps_begin_anew_with_every_epoch_and_no_epoch_comes_back(collector):
    await collector.collect(signed(receipt(1, steps=40)), LEASE)
    await collector.collect(signed(receipt(2, tokens=40, epoch=2, steps=1)), LEASE)
    with pytest.raises(LimitExceeded, match="takes back"):
        await collector.collect(signed(receipt(3, tokens=48, epoch=2, steps=0)), LEASE)
    with pytest.raises(LimitExceeded, match="takes back"):
        await collector.collect(signed(receipt(3, tokens=48, epoch=1, steps=41)), LEASE)
    with pytest.raises(LimitExceeded, match="takes back"):
        await collector.collect(signed(receipt(3, tokens=39, epoch=3, steps=1)), LEASE)
    await collector.collect(signed(receipt(3, tokens=48, epoch=3, steps=0)), LEASE)


async def test_receipts_survive_a_crash_and_are_handed_in_by_the_next_run(tmp_path, sink):
    path = tmp_path / "receipts.log"
    first = Collector(PROVIDER, ReceiptLog(path), sink)
    await first.collect(signed(receipt(1)), LEASE)
    _, countersignature = await first.collect(signed(receipt(2, tokens=64)), LEASE)
    # no close: the process is gone

    second = Collector(PROVIDER, ReceiptLog(path), sink)
    assert second.pending == 1
    await second.close(timeout_s=1)
    ((handed_in,),) = sink.batches
    assert CosignedReceipt.decode(handed_in).countersignature == countersignature
    assert path.stat().st_size == 0


async def test_a_marketplace_that_is_away_is_tried_again(collector, sink):
    sink.away = 1
    collector.start()
    await collector.collect(signed(receipt(final=True)), LEASE)
    async with asyncio.timeout(10):
        while not sink.batches:
            await asyncio.sleep(0.05)
    assert collector.pending == 0


async def test_what_cannot_be_handed_in_stays_on_disk(tmp_path, sink):
    sink.away = 1000
    path = tmp_path / "receipts.log"
    made = Collector(PROVIDER, ReceiptLog(path), sink)
    await made.collect(signed(receipt()), LEASE)
    await made.close(timeout_s=0.2)
    log = ReceiptLog(path)
    assert len(log.load()) == 1
    log.close()


async def test_a_refusal_is_final_and_said_aloud(tmp_path, sink, caplog):
    sink.status, sink.reason = "rejected", "too late"
    made = Collector(PROVIDER, ReceiptLog(tmp_path / "receipts.log"), sink)
    await made.collect(signed(receipt()), LEASE)
    await made.close(timeout_s=1)
    assert "too late" in caplog.text
    assert len(sink.batches) == 1
    assert made.refused == {"too late": 1}


async def test_what_may_not_be_countersigned_is_not_kept(collector):
    def refuse(_):
        raise RemoteProtocolError("not ours")

    with pytest.raises(RemoteProtocolError, match="not ours"):
        await collector.collect(signed(receipt()), LEASE, check=refuse)
    assert collector.pending == 0


async def test_signed_answers_are_kept_and_counted_by_the_next_run(tmp_path, sink):
    def answers():
        path = tmp_path / "answers.log"
        return AnswerLog(path, market=MARKET.peer_id, provider=PROVIDER.peer_id)

    sink.status, sink.reason = "rejected", "too late"
    made = Collector(PROVIDER, ReceiptLog(tmp_path / "receipts.log"), sink, answers())
    await made.collect(signed(receipt()), LEASE)
    await made.close(timeout_s=1)
    again = Collector(PROVIDER, ReceiptLog(tmp_path / "receipts.log"), sink, answers())
    assert again.refused == {"too late": 1}
    (kept,) = answers().answers()
    kept.verify(market=MARKET.peer_id, provider=PROVIDER.peer_id)
    await again.close(timeout_s=1)


async def test_an_answer_that_is_not_signed_is_no_acknowledgement(tmp_path, sink):
    sink.market = KeyPair(b"x" * 32)
    log = AnswerLog(tmp_path / "answers.log", market=MARKET.peer_id, provider=PROVIDER.peer_id)
    made = Collector(PROVIDER, ReceiptLog(tmp_path / "receipts.log"), sink, log)
    await made.collect(signed(receipt()), LEASE)
    await made.close(timeout_s=0.2)
    assert (made.pending, log.answers()) == (1, [])
