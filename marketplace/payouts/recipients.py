"""Where an account is paid and on which terms: kept here, known at the processor.

Functions that take a session do no HTTP; `open_recipient` and `refresh` take the market, ask the
processor outside any transaction, and then write what it said.
"""

from ledger.database import Session
from marketplace.market import Market
from marketplace.payments.processor import (
    OutcomeUnknown,
    ProcessorBusy,
    ProcessorError,
    ProcessorRefused,
    RecipientState,
)
from marketplace.payouts.errors import (
    CountryFixed,
    CountryUnknown,
    ProcessorAway,
    RecipientMissing,
    RecipientRefused,
)
from marketplace.payouts.models import PayoutRow, PayoutTermsRow, RecipientRow
from marketplace.payouts.repository import RecipientRepository
from marketplace.payouts.schedule import PayoutTerms, Schedule
from marketplace.payouts.states import PayoutState
from marketplace.standing import service as standing
from marketplace.standing.links import VALUE_CHARACTERS_MAX, FingerprintKind
from marketplace.users.limits import Limit, Tried, count_attempts
from protocol.countries import normal_country

__all__ = [
    "bank_word",
    "begin_exit",
    "choose_terms",
    "exit_at_s",
    "find",
    "open_recipient",
    "refresh",
    "require",
    "show",
    "terms_of",
]

MISSING_CHARACTERS_MAX = 2048
MOVES = Limit("changes of the country of payouts", "account", 5, 86_400)
"""Each makes an account at the processor; whoever mistook the country twice still has three."""
FRESH_S = 60
"""A page that is looked at again within a minute does not ask the processor again."""


def find(session: Session, account_id: str) -> RecipientRow | None:
    """The account's recipient as it was last seen."""
    return RecipientRepository(session).get(account_id)


def open_recipient(market: Market, account_id: str, email: str, country: str) -> str:
    """Make the account's recipient where there is none; gives the page on which it is completed.

    country: the provider's own word, for the processor takes it for good. Raises CountryUnknown,
    CountryFixed, TooManyAttempts, ProcessorAway, or RecipientRefused with the processor's reason.
    """
    code = normal_country(country)
    if code is None:
        raise CountryUnknown(country)
    try:
        url = market.payout_processor.onboarding_url(_recipient_in(market, account_id, email, code))
    except ProcessorError as error:
        raise _told(error) from error
    refresh(market, account_id)
    return url


def _recipient_in(market: Market, account_id: str, email: str, country: str) -> str:
    """The account's recipient in that country.

    Stripe has no way for an account to move to another country: its currency, its agreement and
    what it was asked all follow from the country. So whoever mistook it gets a new recipient, as
    long as no money can have gone to the one before; that one stays at Stripe, unused, and is the
    same again for who turns back within a day.
    """
    with market.database.reading() as session:
        known = find(session, account_id)
    if known is not None and known.country == country:
        return known.recipient
    if known is not None:
        count_attempts(market.database, market.clock.now_s(), Tried(MOVES, account_id))
        # its owner may have finished there a moment ago
        refresh(market, account_id)
        with market.database.reading() as session:
            _require_movable(session, require(session, account_id), country)
    made = market.payout_processor.create_recipient(account_id, email, country)
    with market.database.transaction() as session:
        now_s = market.clock.now_s()
        RecipientRepository(session).add_missing(account_id, made, country, now_s)
        return _put(session, account_id, made, country, now_s=now_s)


def _put(session: Session, account_id: str, made: str, country: str, *, now_s: int) -> str:
    """Keep a recipient that was just made; what another request has kept meanwhile stays."""
    repository = RecipientRepository(session)
    row = repository.lock(account_id)
    assert row is not None, "it was there, or was added before"
    if row.country == country:
        return row.recipient
    _require_movable(session, row, country)
    row.recipient, row.country, row.created_at_s = made, country, now_s
    row.missing, row.checked_at_s = "", None
    repository.save()
    return made


def _require_movable(session: Session, row: RecipientRow, country: str) -> None:
    if row.payouts_enabled or RecipientRepository(session).has_payouts(row):
        raise CountryFixed(row.country, country)


def refresh(market: Market, account_id: str) -> RecipientRow:
    """Ask the processor how the recipient stands, and keep it with the bank's fingerprint.

    Raises RecipientMissing, ProcessorAway or RecipientRefused.
    """
    with market.database.reading() as session:
        known = require(session, account_id)
    try:
        state = market.payout_processor.recipient_state(known.recipient)
    except ProcessorError as error:
        raise _told(error) from error
    with market.database.transaction() as session:
        return _keep(session, account_id, state, now_s=market.clock.now_s())


def require(session: Session, account_id: str) -> RecipientRow:
    """The account's recipient; raises RecipientMissing where there is none."""
    row = find(session, account_id)
    if row is None:
        raise RecipientMissing
    return row


def show(market: Market, account_id: str) -> RecipientRow:
    """The recipient, fresh enough; as it was last seen where the processor does not answer.

    Raises RecipientMissing.
    """
    with market.database.reading() as session:
        row = require(session, account_id)
    if row.checked_at_s is not None and market.clock.now_s() - row.checked_at_s < FRESH_S:
        return row
    try:
        return refresh(market, account_id)
    except ProcessorAway:
        return row


def terms_of(session: Session, account_id: str) -> PayoutTerms:
    """What the account has chosen, or the defaults."""
    row = RecipientRepository(session).terms(account_id)
    return PayoutTerms(Schedule(row.schedule), row.minimum_cents) if row else PayoutTerms()


def choose_terms(session: Session, account_id: str, terms: PayoutTerms, *, now_s: int) -> None:
    """Keep what the account chooses."""
    row = _terms_row(session, account_id, now_s)
    row.schedule, row.minimum_cents = terms.schedule.value, terms.minimum_cents
    row.changed_at_s = now_s
    RecipientRepository(session).save()


def begin_exit(session: Session, account_id: str, *, now_s: int) -> int:
    """The account leaves gracefully; gives since when. Again is no error and no later date."""
    row = _terms_row(session, account_id, now_s)
    if row.exit_at_s is None:
        row.exit_at_s = now_s
        RecipientRepository(session).save()
    return row.exit_at_s


def exit_at_s(session: Session, account_id: str) -> int | None:
    """Since when the account is leaving."""
    row = RecipientRepository(session).terms(account_id)
    return None if row is None else row.exit_at_s


def bank_word(row: PayoutRow, recipient: RecipientRow) -> PayoutState | None:
    """What the latest of the bank's events that came after a transfer says of its payout."""
    made_at_s = row.transfer_at_s or row.changed_at_s
    paid, failed = recipient.bank_paid_at_s, recipient.bank_failed_at_s
    if max(paid, failed) < made_at_s:
        return None
    return PayoutState.PAID if paid >= failed else PayoutState.FAILED


def _keep(session: Session, account_id: str, state: RecipientState, *, now_s: int) -> RecipientRow:
    repository = RecipientRepository(session)
    row = repository.lock(account_id)
    assert row is not None, "it was there, and nothing removes a recipient"
    row.payouts_enabled = state.payouts_enabled
    row.missing = "\n".join(state.missing)[:MISSING_CHARACTERS_MAX]
    row.checked_at_s = now_s
    repository.save()
    if state.bank_fingerprint:
        value = state.bank_fingerprint[:VALUE_CHARACTERS_MAX]
        standing.note_fingerprint(session, account_id, FingerprintKind.BANK, value, now_s=now_s)
    return row


def _terms_row(session: Session, account_id: str, now_s: int) -> PayoutTermsRow:
    repository = RecipientRepository(session)
    row = repository.terms(account_id)
    if row is None:
        terms = PayoutTerms()
        row = PayoutTermsRow(
            account_id=account_id,
            schedule=terms.schedule.value,
            minimum_cents=terms.minimum_cents,
            changed_at_s=now_s,
        )
        repository.add_terms(row)
    return row


def _told(error: ProcessorError) -> RecipientRefused | ProcessorAway:
    """The processor's error, as a client of ours is told."""
    match error:
        case ProcessorRefused():
            return RecipientRefused(error.code, error.message)
        case OutcomeUnknown() | ProcessorBusy():
            return ProcessorAway()
    return ProcessorAway()
