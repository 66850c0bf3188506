"""A node asks whose it is, and a person answers (RFC 8628).

The node signs its question, so the answer binds a key that was really there, and signs each poll,
so a device code that somebody reads over its shoulder is of no use. A person types the user code,
is shown which machine it is, and approves. A code is approved once, and its answer fetched once.

    waiting -> approved -> done       waiting -> denied       any of them -> forgotten when over
"""

from dataclasses import dataclass
from enum import StrEnum

from ledger.database import Session
from marketplace.accounts import service as accounts
from marketplace.auth import Caller, NewKey, Scope, require_scope
from marketplace.keys import service as keys
from marketplace.machines import service as machines
from marketplace.machines.codes import make_user_code, parse_user_code
from marketplace.machines.errors import (
    AccessDenied,
    AuthorizationPending,
    ExpiredToken,
    SlowDown,
    UserCodeUnknown,
)
from marketplace.machines.models import DeviceCodeRow
from marketplace.machines.repository import DeviceRepository
from marketplace.users.tokens import TOKEN_CHARACTERS_MAX, hash_token, make_token

__all__ = [
    "INTERVAL_S",
    "LIFETIME_S",
    "Answer",
    "NewCode",
    "Purpose",
    "approve",
    "ask",
    "begin",
    "deny",
    "look",
]

LIFETIME_S = 600
"""Long enough to find the other screen and sign up on it."""
INTERVAL_S = 5
"""RFC 8628's own, between two polls."""
SLOWER_BY_S = 5
INTERVAL_S_MAX = 60
WAITING_MAX = 5
"""Codes of one machine at a time; the oldest goes."""


class Purpose(StrEnum):
    """What the device is to get."""

    MACHINE = "machine"
    """It earns for the account from then on."""
    KEY = "key"
    """An API key to buy with."""


@dataclass(frozen=True, slots=True)
class NewCode:
    """What the device is told. `device_code` is shown this once."""

    device_code: str
    user_code: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What was approved. `key` where the device asked for one."""

    account_id: str
    account_name: str
    name: str
    key: NewKey | None


def begin(session: Session, peer_id: str, name: str, purpose: Purpose, *, now_s: int) -> NewCode:
    """A pair of codes for a node that signed for them."""
    repository = DeviceRepository(session)
    repository.keep_newest(peer_id, WAITING_MAX - 1)
    code = NewCode(make_token(), make_user_code())
    row = DeviceCodeRow(
        code_hash=hash_token("device", code.device_code),
        user_code=code.user_code,
        peer_id=peer_id,
        name=name,
        purpose=purpose,
        state="waiting",
        interval_s=INTERVAL_S,
        created_at_s=now_s,
        expires_at_s=now_s + LIFETIME_S,
    )
    repository.add(row)
    return code


def look(session: Session, user_code: str, *, now_s: int) -> DeviceCodeRow:
    """Which device waits under a code. Raises UserCodeUnknown."""
    return _waiting(session, user_code, now_s, lock=False)


def approve(session: Session, caller: Caller, user_code: str, *, now_s: int) -> DeviceCodeRow:
    """The device is this account's; a machine is bound in the same transaction.

    Raises UserCodeUnknown, TooManyMachines, or ScopeMissing where a key asks for an owner.
    """
    row = _waiting(session, user_code, now_s, lock=True)
    if row.purpose == Purpose.KEY:
        require_scope(caller, Scope.MANAGEMENT)  # a key goes on spending when its maker has left
    row.state, row.account_id = "approved", caller.account_id
    DeviceRepository(session).add(row)
    if row.purpose == Purpose.MACHINE:
        machines.bind(
            session, row.peer_id, caller.account_id, row.name, bound_by=caller.name, now_s=now_s
        )
    return row


def deny(session: Session, user_code: str, *, now_s: int) -> None:
    """The device is nobody's here. Raises UserCodeUnknown."""
    row = _waiting(session, user_code, now_s, lock=True)
    row.state = "denied"
    DeviceRepository(session).add(row)


def ask(
    session: Session, peer_id: str, device_code: str, *, now_s: int
) -> Answer | AuthorizationPending | SlowDown:
    """What became of a device's code, told to that device alone; a new key only once.

    That nobody has answered yet is given and not raised: when it was asked must be committed.
    Raises AccessDenied or ExpiredToken.
    """
    row = None
    if len(device_code) <= TOKEN_CHARACTERS_MAX:
        row = DeviceRepository(session).lock(hash_token("device", device_code))
    if row is None or row.peer_id != peer_id or row.expires_at_s <= now_s or row.state == "done":
        raise ExpiredToken
    if row.state == "denied":
        raise AccessDenied
    if row.account_id is None:
        return _poll(session, row, now_s)
    key = None
    if row.purpose == Purpose.KEY:
        scopes = frozenset({Scope.INFERENCE})
        key = keys.create(session, row.account_id, row.name, scopes, now_s=now_s)
        row.state = "done"
        DeviceRepository(session).add(row)
    return Answer(row.account_id, accounts.name_of(session, row.account_id), row.name, key)


def _poll(session: Session, row: DeviceCodeRow, now_s: int) -> AuthorizationPending | SlowDown:
    """Note when it was asked; sooner than it may be, and the interval grows (RFC 8628, 3.5)."""
    is_soon = row.polled_at_s is not None and now_s - row.polled_at_s < row.interval_s
    row.polled_at_s = now_s
    if is_soon:
        row.interval_s = min(row.interval_s + SLOWER_BY_S, INTERVAL_S_MAX)
    DeviceRepository(session).add(row)
    return SlowDown(row.interval_s) if is_soon else AuthorizationPending(row.interval_s)


def _waiting(session: Session, user_code: str, now_s: int, *, lock: bool) -> DeviceCodeRow:
    row = DeviceRepository(session).waiting(parse_user_code(user_code), lock=lock)
    if row is None or row.expires_at_s <= now_s:
        raise UserCodeUnknown
    return row
