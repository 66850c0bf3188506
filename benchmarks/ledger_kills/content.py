"""What the receipts of a session say, as a function of the run's seed: so that a head which was
killed says the same again, and the oracle knows every amount without asking anybody."""

import hashlib
from dataclasses import dataclass

from benchmarks.ledger_kills.place import HIDDEN_SIZE, LAYERS_PER_HOP, RATES, Options
from protocol.envelope import seal
from protocol.identity import KeyPair
from protocol.money import Nanos, Work, amount_nanos
from protocol.receipt import Receipt
from protocol.tensor import WireDtype

__all__ = ["ROW_BYTES", "SessionPlan", "amount_at", "plan_of", "receipts_of"]

ROW_BYTES = WireDtype.BF16.row_bytes(HIDDEN_SIZE)


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """One session before it is leased. `attempt`: how many sessions were given up in its place."""

    cohort: int
    index: int
    attempt: int
    session_id: bytes
    payer: KeyPair
    buyer: int
    """Index of the buyer's account."""
    tokens_short: int
    """So many tokens fewer than could be, so that amounts differ."""


def plan_of(options: Options, cohort: int, index: int, attempt: int) -> SessionPlan:
    """The same for the same arguments."""
    digest = hashlib.blake2b(f"{options.seed}:{cohort}:{index}:{attempt}".encode()).digest()
    return SessionPlan(
        cohort=cohort,
        index=index,
        attempt=attempt,
        session_id=digest[:16],
        payer=KeyPair(digest[16:48]),
        buyer=index % len(options.buyers),
        tokens_short=digest[48] % options.window_tokens,
    )


def receipts_of(
    options: Options, plan: SessionPlan, lease_id: bytes, hop: int, sequence: int
) -> bytes:
    """The payer's envelope of one receipt: what the head gives the provider of a hop."""
    work = _work(options, plan, sequence)
    receipt = Receipt(
        lease_id=lease_id,
        sequence=sequence,
        epoch=0,
        steps=sequence,
        tokens=work.bytes_in // ROW_BYTES,
        work=work,
        amount_nanos=amount_nanos(work, RATES),
        link_in_hash=_link(plan, hop, sequence),
        link_out_hash=_link(plan, hop + 1, sequence),
        final=sequence == options.receipts_per_lease,
    )
    return seal(receipt, plan.payer).encode()


def amount_at(options: Options, plan: SessionPlan, sequence: int) -> Nanos:
    """What each lease of the session has earned by this receipt; 0 before the first."""
    return amount_nanos(_work(options, plan, sequence), RATES) if sequence else 0


def _work(options: Options, plan: SessionPlan, sequence: int) -> Work:
    output = options.window_tokens * sequence - plan.tokens_short
    rows = options.prompt_tokens + output
    return Work(
        prefill_token_layers=options.prompt_tokens * LAYERS_PER_HOP,
        decode_token_layers=output * LAYERS_PER_HOP,
        bytes_in=rows * ROW_BYTES,
        bytes_out=rows * ROW_BYTES,
    )


def _link(plan: SessionPlan, link: int, sequence: int) -> bytes:
    """Both ends of a link say the same of it."""
    return hashlib.sha256(plan.session_id + bytes((link, sequence % 256))).digest()
