"""People at the same moment: what is good once is taken once, and what is counted is exact."""

import secrets

import pytest

from marketplace.auth import Caller, Scope
from marketplace.errors import Conflict
from marketplace.users import logins, members, securing, signing_in, signing_up
from marketplace.users.errors import SignInFailed, TokenInvalid, TooManyAttempts
from marketplace.users.letters import Purpose, issue_token
from marketplace.users.limits import Limit, Tried, count_attempts
from marketplace.users.logins import Visitor
from marketplace.users.repository import UserRepository
from marketplace.users.signing_in import SignIn, sign_in
from tests.marketplace.racing import in_transaction, on_postgresql, overlapping, refusals
from tests.marketplace.users.people import PASSWORD, somebody

pytestmark = on_postgresql

VISITOR = Visitor("192.0.2.1", "test")
NEW_PASSWORD = "eleven blue doors"


def user_of(world, person):
    with world.market.database.reading() as session:
        user = UserRepository(session).by_email(person.email)
        assert user is not None
        return user


def locked(user):
    return lambda session: UserRepository(session).get(user.user_id, lock=True)


def signing(world, person, code=None, password=PASSWORD):
    shown = SignIn(person.email, password, code)
    return lambda: sign_in(world.market, shown, VISITOR)


@pytest.mark.parametrize("kind", ["authenticator", "recovery"])
async def test_a_code_signs_in_once(world, kind):
    ann = await somebody(world)
    await ann.enrol()
    code = ann.code() if kind == "authenticator" else ann.recovery_codes[0]
    works = [signing(world, ann, code) for _ in range(3)]
    outcomes = overlapping(world.market.database, locked(user_of(world, ann)), *works)
    assert refusals(outcomes) == [SignInFailed, SignInFailed]


@pytest.mark.parametrize("reset_first", [True, False])
async def test_whoever_signs_in_while_the_password_is_set_anew_is_out(world, reset_first):
    ann = await somebody(world)
    user, database = user_of(world, ann), world.market.database
    with database.transaction() as session:
        token = issue_token(session, Purpose.RESET, ann.email, now_s=world.clock.now)

    def reset():
        return securing.reset_password(world.market, token, NEW_PASSWORD, VISITOR)

    works = [reset, signing(world, ann)] if reset_first else [signing(world, ann), reset]
    outcomes = overlapping(database, locked(user), *works)
    assert refusals(outcomes) == ([SignInFailed] if reset_first else [])
    with database.reading() as session:
        assert logins.listing(session, user.user_id, now_s=world.clock.now) == []


async def test_a_letters_token_is_taken_once(world):
    ann = await somebody(world)
    user, database = user_of(world, ann), world.market.database
    with database.transaction() as session:
        token = issue_token(session, Purpose.RESET, ann.email, now_s=world.clock.now)
    works = [
        lambda word=word: securing.reset_password(world.market, token, word, VISITOR)
        for word in (NEW_PASSWORD, NEW_PASSWORD[::-1])
    ]
    assert refusals(overlapping(database, locked(user), *works)) == [TokenInvalid]


async def test_an_invitation_is_accepted_once(world):
    ann, bob = await somebody(world), await somebody(world, "bob@example.com")
    user, database = user_of(world, bob), world.market.database
    with database.reading() as session:
        (place,) = UserRepository(session).accounts_of(user_of(world, ann).user_id)
    with database.transaction() as session:
        token = issue_token(
            session, Purpose.MEMBER, bob.email, now_s=world.clock.now, account_id=place.account_id
        )

    def accept(session):
        return signing_up.accept(session, user.user_id, token, now_s=world.clock.now)

    outcomes = overlapping(database, accept, in_transaction(database, accept))
    assert refusals(outcomes) == [TokenInvalid]


async def test_an_account_that_had_keys_alone_is_claimed_by_one(world):
    buyer = await world.buyer()
    key = Caller(buyer.account_id, buyer.key_id, frozenset(Scope))
    users = [user_of(world, await somebody(world, f"{name}@example.com")) for name in ("a", "b")]

    def claim(user):
        return lambda session: members.claim(session, user.user_id, key, now_s=world.clock.now)

    database = world.market.database
    outcomes = overlapping(database, claim(users[0]), in_transaction(database, claim(users[1])))
    assert refusals(outcomes) == [Conflict]
    with database.reading() as session:
        assert [row.user_id for row, _ in members.listing(session, buyer.account_id)] == [
            users[0].user_id
        ]


async def test_of_two_owners_who_leave_at_once_one_stays(world):
    ann, bob = await somebody(world), await somebody(world, "bob@example.com")
    users, database = [user_of(world, person) for person in (ann, bob)], world.market.database
    with database.transaction() as session:
        (place,) = UserRepository(session).accounts_of(users[0].user_id)
        signing_up.join(session, users[1].user_id, place.account_id, "owner", now_s=world.clock.now)

    def leave(user):
        return lambda session: members.remove(session, place.account_id, user.user_id)

    outcomes = overlapping(database, leave(users[0]), in_transaction(database, leave(users[1])))
    assert refusals(outcomes) == [Conflict]
    with database.reading() as session:
        assert UserRepository(session).owner_count(place.account_id) == 1


async def test_attempts_are_counted_to_the_last(world):
    database, now_s = world.market.database, world.clock.now
    tried = Tried(Limit("tries of this test", "account", 3, 600), secrets.token_hex(4))

    def count():
        count_attempts(database, now_s, tried)

    outcomes = overlapping(database, lambda _: None, *[count] * 6)
    assert refusals(outcomes) == [TooManyAttempts] * 3


async def test_a_session_goes_on_under_one_new_token(world):
    """Two codes are shown in one session at once: it is renewed by one of them."""
    ann = await somebody(world)
    await ann.enrol()
    database, user = world.market.database, user_of(world, ann)
    with database.reading() as session:
        login = logins.find(session, ann.token, now_s=world.clock.now)
    codes = ann.recovery_codes[:2]
    works = [
        lambda code=code: signing_in.show_code(world.market, login, code, VISITOR) for code in codes
    ]
    outcomes = overlapping(database, locked(user), *works)
    assert len(refusals(outcomes)) == 1
    with database.reading() as session:
        assert len(logins.listing(session, user.user_id, now_s=world.clock.now)) == 1
