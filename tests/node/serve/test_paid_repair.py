"""Repairs where hops are paid: what counts, what is metered, and under which lease."""

import time
from dataclasses import dataclass, replace

import pytest

from node.serve.collector import Collector
from node.serve.receipt_log import ReceiptLog
from protocol.envelope import seal
from protocol.frame import Ack, Meter, ReceiptFrame
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.money import Rates, Work, amount_nanos
from protocol.receipt import Receipt
from protocol.tensor import LINK_HASH_START, WireDtype
from tests.node.serve.answers import signed_results
from tests.node.serve.rig import (
    HIDDEN,
    MODEL,
    PROMPT,
    expected_tokens,
    make_rig,
    spans,
    wait_for,
    wait_freed,
)
from tests.node.serve.scripted_head import ScriptedHead, generate, rows

RATES = Rates(1_000_000, 4_000_000, 50_000)
PAYER = KeyPair.generate()
ANSWER = 12


@dataclass
class Leasing:
    """An admission that lends itself; `renews`: every epoch comes under a lease of its own."""

    renews: bool = False
    lease: Lease | None = None

    def admit(self, request, head):
        now_s = int(time.time())
        self.lease = Lease(
            lease_id=KeyPair.generate().seed[:16], session_id=request.session_id,
            hold_id=bytes(16), hop_index=request.hop_index, hop_count=request.hop_count,
            payer_key=PAYER.peer_id.public_key, provider=head, head=head,
            previous=request.previous, next=request.next, manifest_hash=MODEL, span=request.span,
            hidden_size=HIDDEN, wire_dtype=WireDtype.FP32, rates=RATES,
            work_max=Work(10**6, 10**6, 10**8, 10**8), amount_nanos_max=10**12, tokens_max=600,
            window_tokens=8, credit_windows=8, fee_basis_points=500, issued_at_s=now_s,
            expires_at_s=now_s + 60, settle_by_s=now_s + 600,
        )  # fmt: skip
        return self.lease

    def readmit(self, request, head, lease):
        return self.admit(request, head) if self.renews else lease


class Sink:
    async def hand_in(self, batch):
        return signed_results(batch)


def paid(rig, span, *, renews=False):
    """A provider that is paid, and its admission."""
    admission = Leasing(renews)
    log = ReceiptLog(rig.directory / f"{KeyPair.generate().seed.hex()}.log")
    collector = Collector(KeyPair.generate(), log, Sink())
    return rig.provider(span, admission=admission, collector=collector), admission


def receipt(meter: Meter, lease: Lease, sequence: int) -> ReceiptFrame:
    signed = Receipt(
        lease.lease_id, sequence, meter.epoch, meter.steps, meter.tokens, meter.work,
        amount_nanos(meter.work, RATES), meter.link_in_hash, meter.link_out_hash, meter.final,
    )  # fmt: skip
    return ReceiptFrame(meter.session_id, seal(signed, PAYER).encode())


async def test_replays_are_paid_as_prefill_and_both_ends_of_a_link_agree(tmp_path):
    async with make_rig(tmp_path) as rig:
        a, b, c = spans(3)
        (first, _), (second, _), (third, _) = (paid(rig, span) for span in (a, b, c))
        head, tokens = ScriptedHead(rig, [first, second, third]), []
        await head.open()
        await generate(head, tokens, 4)
        await rig.network.kill(second.peer_id, silent=False)
        other, _ = paid(rig, b)
        head.route[1] = other
        await head.repair(rows(tokens), steps=4)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
        await head.close(steps=ANSWER - 4)
        meters = []
        for provider in head.route:
            await wait_for(lambda p=provider: any(m.final for m in head.lines[p].frames[Meter]))
            meters.append(head.lines[provider].frames[Meter][-1])
        replayed, decoded = rows(tokens[:4]), ANSWER - 4
        assert [m.tokens for m in meters] == [rows(tokens)] * 3
        assert [m.steps for m in meters] == [decoded] * 3
        assert meters[1].work.prefill_token_layers == replayed * len(b)
        assert meters[1].work.decode_token_layers == decoded * len(b)
        assert meters[0].work.prefill_token_layers == len(PROMPT) * len(a)
        assert meters[0].link_out_hash == meters[1].link_in_hash
        assert meters[1].link_out_hash == meters[2].link_in_hash
        # the sender of a replay is not paid for sending it
        row_bytes = WireDtype.FP32.row_bytes(HIDDEN)
        assert meters[0].work.bytes_out == rows(tokens) * row_bytes
        assert meters[1].work.bytes_in == rows(tokens) * row_bytes


@pytest.mark.parametrize("moment", ["broken", "reopening"])
async def test_a_close_amid_a_repair_brings_the_last_meter(tmp_path, moment):
    async with make_rig(tmp_path) as rig:
        a, b = spans(2)
        (first, admission), (second, _) = paid(rig, a), paid(rig, b)
        head, tokens = ScriptedHead(rig, [first, second]), []
        await head.open()
        await generate(head, tokens, 4)
        await rig.network.kill(second.peer_id, silent=False)
        await head.error(first)
        steps = 4
        if moment == "reopening":
            head.route[1] = rig.provider(b)  # is dialled, and never opened
            head.epoch, steps = 1, 0
            await head.lines[first].send(head.frame(0, resume=rows(tokens), steps=4))
        await head.close(steps=steps, whom=[first])
        line = head.lines[first]
        await wait_for(lambda: any(meter.final for meter in line.frames[Meter]))
        meter = line.frames[Meter][-1]
        assert (meter.epoch, meter.steps, meter.tokens) == (head.epoch, steps, rows(tokens))
        assert first.statistics.sequences == 0
        await line.send(receipt(meter, admission.lease, 1))
        await line.wait(Ack)
        await wait_freed(first)
        assert first.server.reports[-1].outcome == "done"


async def test_receipts_go_on_in_the_next_epoch(tmp_path):
    async with make_rig(tmp_path) as rig:
        a, b = spans(2)
        (first, admission), (second, _) = paid(rig, a), paid(rig, b)
        head, tokens = ScriptedHead(rig, [first, second]), []
        await head.open()
        await generate(head, tokens, 2)
        line = head.lines[first]
        await line.send(receipt(await line.wait(Meter), admission.lease, 1))
        await line.wait(Ack)
        head.route[1] = rig.provider(b)
        await head.repair(rows(tokens), steps=2)
        seen = line.count(Meter)
        await generate(head, tokens, ANSWER)
        meter = await line.wait(Meter, seen + 1)
        assert (meter.epoch, meter.tokens) == (1, meter.steps + rows(tokens[:2]))
        await line.send(receipt(meter, admission.lease, 2))
        assert (await line.wait(Ack, 2)).sequence == 2


async def test_a_receipt_for_steps_that_were_not_done_ends_the_session(tmp_path):
    async with make_rig(tmp_path) as rig:
        provider, admission = paid(rig, spans(1)[0])
        head = ScriptedHead(rig, [provider])
        await head.open()
        await head.decode(PROMPT)
        line = head.lines[provider]
        meter = replace(await line.wait(Meter), steps=2)
        await line.send(receipt(meter, admission.lease, 1))
        await head.error(provider)
        await wait_freed(provider)


async def test_another_lease_counts_from_nothing_over_the_same_rows(tmp_path):
    async with make_rig(tmp_path) as rig:
        a, b = spans(2)
        (first, admission), second = paid(rig, a, renews=True), rig.provider(b)
        head, tokens = ScriptedHead(rig, [first, second]), []
        await head.open()
        await generate(head, tokens, 4)
        opened = await head.repair(rows(tokens), steps=4)
        assert opened[0].cached_tokens == rows(tokens)
        await generate(head, tokens, ANSWER)
        assert tokens == expected_tokens(tmp_path, PROMPT, ANSWER)
        await head.close(steps=ANSWER - 4)
        line = head.lines[first]
        await wait_for(lambda: any(meter.final for meter in line.frames[Meter]))
        meter = line.frames[Meter][-1]
        assert (meter.tokens, meter.steps) == (ANSWER - 4, ANSWER - 4)
        assert meter.work.prefill_token_layers == 0
        assert meter.link_in_hash != LINK_HASH_START
        await line.send(receipt(meter, admission.lease, 1))
        await line.wait(Ack)
