"""What whoever has the marketplace's machine does for its people, from the command line."""

from collections.abc import Iterator

from marketplace.errors import Malformed
from marketplace.market import Market
from marketplace.users.addresses import normalise
from marketplace.users.letters import Purpose, issue_token, take_letters

__all__ = ["hand_over_letters", "invite_operator"]


def invite_operator(market: Market, email: str) -> str:
    """A token with which the person of this address becomes an operator. Raises Malformed."""
    try:
        address = normalise(email)
    except ValueError:
        raise Malformed(f"'{email[:64]}' is no e-mail address.") from None
    with market.database.transaction() as session:
        return issue_token(session, Purpose.OPERATOR, address, now_s=market.clock.now_s())


def hand_over_letters(market: Market) -> Iterator[dict[str, str]]:
    """Every letter that waits, the oldest first; each is given once, before it is known to have
    been sent: a letter that is lost is asked for anew, one that comes twice is a nuisance."""
    while True:
        with market.database.transaction() as session:
            rows = take_letters(session, now_s=market.clock.now_s())
            letters = [{"to": row.email, "subject": row.subject, "text": row.text} for row in rows]
        if not letters:
            return
        yield from letters
