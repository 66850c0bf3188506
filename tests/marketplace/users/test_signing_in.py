"""Signing up and in, over HTTP."""

import pytest
from sqlalchemy import text

from tests.marketplace.users.people import (
    PASSWORD,
    Somebody,
    letters,
    somebody,
    token_in,
    without_times,
)
from tests.marketplace.world import World, error_of
from tests.postgres import both_engines


@pytest.fixture
async def strict_world(home):
    """A marketplace that asks for addresses to be confirmed."""
    async with World(home, confirm_email=True) as running:
        yield running


class TestSignUp:
    @both_engines
    async def test_then_sign_in_and_be_known(self, world):
        ann = Somebody(world, " Ann@Example.COM ")
        assert (await ann.sign_up(account_name="Ann's")).status_code == 202
        ann.email = "ann@example.com"
        assert (await ann.sign_in()).status_code == 201
        me = (await ann.ask("GET", "/v1/me")).json()
        assert me["email"] == "ann@example.com"
        assert me["accounts"] == [
            {"account_id": me["account_id"], "name": "Ann's", "role": "owner"}
        ]
        account = (await ann.ask("GET", "/v1/account")).json()
        assert account["account_id"] == me["account_id"]

    async def test_a_known_address_gets_the_same_answer_and_a_letter(self, world):
        ann = await somebody(world)
        again = Somebody(world, ann.email, password="another password")
        first = await Somebody(world, "new@example.com").sign_up()
        assert without_times(await again.sign_up()) == without_times(first)
        (letter,) = letters(world)
        assert letter["to"] == ann.email
        assert error_of(await again.sign_in()) == (401, "sign_in_failed")
        assert (await ann.ask("GET", "/v1/me")).status_code == 200

    @pytest.mark.parametrize(
        "email",
        ["", "ann", "ann@", "@example.com", "ann@localhost", "a b@example.com", "ann@exa\nmple.com",
         "ann@example..com", "ännä@example.com", "a" * 65 + "@example.com", "ann@-x.com", 7,
         "a@" + "b." * 130 + "com"],
    )  # fmt: skip
    async def test_what_is_no_address_is_400(self, world, email):
        assert error_of(await Somebody(world, email).sign_up()) == (400, "malformed")

    @pytest.mark.parametrize(
        "password", ["", "short", "aaaaaaaaaaaa", "abababababab", "ann@example.com", "x" * 257]
    )
    async def test_a_weak_password_is_refused(self, world, password):
        answer = await Somebody(world, "ann@example.com", password=password).sign_up()
        assert error_of(answer) == (400, "password_weak")

    async def test_only_a_hash_of_password_and_token_is_kept(self, world):
        ann = await somebody(world)
        with world.market.database.reading() as session:
            rows = repr(session.execute(text("SELECT * FROM market_user")).all())
            rows += repr(session.execute(text("SELECT * FROM market_login")).all())
        assert "$argon2id$" in rows
        assert PASSWORD not in rows
        assert ann.token not in rows
        assert ann.token.removeprefix("pws_") not in rows

    async def test_the_same_password_however_it_is_typed(self, world):
        ann = await somebody(world, password="café au lait, ﬁne")
        ann.password = "cafe\u0301 au lait, fine"
        assert (await ann.sign_in()).status_code == 201

    async def test_ten_an_hour_from_one_address(self, world):
        answers = [await Somebody(world, f"a{n}@example.com").sign_up() for n in range(11)]
        assert {answer.status_code for answer in answers[:10]} == {202}
        assert error_of(answers[10]) == (429, "too_many_attempts")
        assert 0 < int(answers[10].headers["retry-after"]) <= 3600
        world.pass_time(3600)
        assert (await Somebody(world, "b@example.com").sign_up()).status_code == 202


class TestConfirming:
    async def test_without_it_nobody_signs_in(self, strict_world):
        ann = Somebody(strict_world, "ann@example.com")
        await ann.sign_up()
        unconfirmed = await ann.sign_in()
        unknown = await Somebody(strict_world, "bob@example.com").sign_in()
        assert without_times(unconfirmed) == without_times(unknown)
        (letter,) = letters(strict_world)
        body = {"token": token_in(letter)}
        assert (await strict_world.http.post("/v1/users/confirm", json=body)).status_code == 204
        again = await strict_world.http.post("/v1/users/confirm", json=body)
        assert error_of(again) == (404, "token_invalid")
        assert (await ann.sign_in()).status_code == 201

    async def test_a_token_of_another_kind_confirms_nothing(self, strict_world):
        ann = Somebody(strict_world, "ann@example.com")
        await ann.sign_up()
        letters(strict_world)
        await strict_world.http.post("/v1/passwords/forgotten", json={"email": ann.email})
        (reset,) = letters(strict_world)
        body = {"token": token_in(reset)}
        answer = await strict_world.http.post("/v1/users/confirm", json=body)
        assert error_of(answer) == (404, "token_invalid")


class TestSignIn:
    @both_engines
    async def test_what_was_wrong_is_not_told(self, world):
        ann = await somebody(world)
        wrong = await Somebody(world, ann.email, password="not this one").sign_in()
        nobody = await Somebody(world, "nobody@example.com").sign_in()
        assert error_of(wrong) == (401, "sign_in_failed")
        assert without_times(wrong) == without_times(nobody)

    async def test_nobody_is_checked_as_long_as_somebody(self, world):
        """Not by the clock: the same hash is computed."""
        checked = []

        class Counting(type(world.market.passwords)):
            def verify(self, stored, password):
                checked.append(stored is None)
                return super().verify(stored, password)

        object.__setattr__(world.market, "passwords", Counting())
        await Somebody(world, "nobody@example.com").sign_in()
        assert checked == [True]
        assert not world.market.passwords.verify(None, "nobody")

    async def test_ten_guesses_and_no_more_even_with_the_right_one(self, world):
        ann = await somebody(world)
        guess = Somebody(world, ann.email, password="one guess more")
        answers = [await guess.sign_in() for _ in range(9)]
        assert {error_of(answer) for answer in answers} == {(401, "sign_in_failed")}
        assert error_of(await ann.sign_in()) == (429, "too_many_attempts")
        assert (await Somebody(world, "other@example.com").sign_in()).status_code == 401
        world.pass_time(600)
        assert (await ann.sign_in()).status_code == 201

    async def test_guesses_at_a_known_and_an_unknown_address_end_alike(self, world):
        await somebody(world)
        world.pass_time(600)
        for email in ("ann@example.com", "nobody@example.com"):
            guess = Somebody(world, email, password="one guess more")
            codes = [error_of(await guess.sign_in())[0] for _ in range(12)]
            assert codes == [401] * 10 + [429] * 2

    async def test_one_address_cannot_try_everybody(self, world):
        answers = [await Somebody(world, f"a{n}@example.com").sign_in() for n in range(61)]
        assert answers[59].status_code == 401
        assert error_of(answers[60]) == (429, "too_many_attempts")

    async def test_older_parameters_are_hashed_anew(self, world):
        ann = await somebody(world)

        def stored():
            with world.market.database.reading() as session:
                return session.execute(text("SELECT password_hash FROM market_user")).scalar_one()

        before = stored()
        await ann.sign_in()
        assert stored() == before
        passwords = type(world.market.passwords)
        object.__setattr__(world.market, "passwords", passwords(memory_kib=1024, passes=2))
        assert (await ann.sign_in()).status_code == 201
        assert "m=1024,t=2" in stored()
        assert (await ann.sign_in()).status_code == 201

    @pytest.mark.parametrize("body", [{}, {"email": "a@b.cd"}, {"email": 1, "password": 2}, []])
    async def test_nonsense_is_400(self, world, body):
        assert error_of(await world.http.post("/v1/logins", json=body)) == (400, "malformed")
