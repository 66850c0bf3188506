"""Passwords: changed, forgotten, set anew."""

from marketplace.users.passwords import Passwords
from tests.marketplace.users.people import Somebody, letters, somebody, token_in, without_times
from tests.marketplace.world import error_of
from tests.postgres import both_engines

NEW = "eight blue chairs"


class TestChange:
    async def test_every_other_session_ends(self, world):
        ann, phone = await somebody(world), Somebody(world, "ann@example.com")
        await phone.sign_in()
        before = ann.token
        body = {"password": ann.password, "new_password": NEW}
        assert (await ann.ask("PUT", "/v1/me/password", body)).status_code == 200
        for token in (before, phone.token):
            answer = await world.http.get("/v1/me", headers={"authorization": f"Bearer {token}"})
            assert error_of(answer) == (401, "login_invalid")
        assert (await ann.ask("GET", "/v1/me")).status_code == 200
        assert error_of(await ann.sign_in()) == (401, "sign_in_failed")
        ann.password = NEW
        assert (await ann.sign_in()).status_code == 201

    async def test_needs_the_old_one_and_a_strong_new_one(self, world):
        ann = await somebody(world)
        wrong = {"password": "not this one", "new_password": NEW}
        assert error_of(await ann.ask("PUT", "/v1/me/password", wrong)) == (401, "sign_in_failed")
        weak = {"password": ann.password, "new_password": "short"}
        assert error_of(await ann.ask("PUT", "/v1/me/password", weak)) == (400, "password_weak")

    async def test_it_is_no_way_around_the_limit_of_sign_ins(self, world):
        ann = await somebody(world)
        body = {"password": "one guess more", "new_password": NEW}
        codes = [error_of(await ann.ask("PUT", "/v1/me/password", body))[0] for _ in range(12)]
        assert codes.count(401) == 9
        assert codes[-1] == 429


class TestForgotten:
    @both_engines
    async def test_a_token_from_a_letter_sets_it_once(self, world):
        ann = await somebody(world)
        asked = await world.http.post("/v1/passwords/forgotten", json={"email": ann.email})
        assert asked.status_code == 202
        (letter,) = letters(world)
        assert letter["to"] == ann.email
        body = {"token": token_in(letter), "password": NEW}
        assert (await world.http.post("/v1/passwords", json=body)).status_code == 204
        again = await world.http.post("/v1/passwords", json=body)
        assert error_of(again) == (404, "token_invalid")
        assert error_of(await ann.ask("GET", "/v1/me")) == (401, "login_invalid")
        ann.password = NEW
        assert (await ann.sign_in()).status_code == 201

    async def test_an_unknown_address_gets_the_same_answer_and_no_letter(self, world):
        ann = await somebody(world)
        known = await world.http.post("/v1/passwords/forgotten", json={"email": ann.email})
        letters(world)
        unknown = await world.http.post("/v1/passwords/forgotten", json={"email": "x@example.com"})
        assert without_times(known) == without_times(unknown)
        assert letters(world) == []

    async def test_good_for_an_hour_and_only_the_last(self, world):
        ann = await somebody(world)
        tokens = []
        for _ in range(2):
            await world.http.post("/v1/passwords/forgotten", json={"email": ann.email})
            tokens.append(token_in(letters(world)[0]))
        first = await world.http.post("/v1/passwords", json={"token": tokens[0], "password": NEW})
        assert error_of(first) == (404, "token_invalid")
        world.pass_time(3600)
        late = await world.http.post("/v1/passwords", json={"token": tokens[1], "password": NEW})
        assert error_of(late) == (404, "token_invalid")

    async def test_changing_the_password_ends_a_token_that_was_sent(self, world):
        ann = await somebody(world)
        await world.http.post("/v1/passwords/forgotten", json={"email": ann.email})
        token = token_in(letters(world)[0])
        await ann.ask("PUT", "/v1/me/password", {"password": ann.password, "new_password": NEW})
        answer = await world.http.post(
            "/v1/passwords", json={"token": token, "password": "o" + NEW}
        )
        assert error_of(answer) == (404, "token_invalid")

    async def test_the_authenticator_is_still_asked_for(self, world):
        ann = await somebody(world)
        await ann.enrol()
        await world.http.post("/v1/passwords/forgotten", json={"email": ann.email})
        body = {"token": token_in(letters(world)[0]), "password": NEW}
        assert (await world.http.post("/v1/passwords", json=body)).status_code == 204
        ann.password = NEW
        assert error_of(await ann.sign_in()) == (401, "code_needed")

    async def test_three_letters_an_hour(self, world):
        ann = await somebody(world)
        for email in (ann.email, "nobody@example.com"):
            body = {"email": email}
            codes = [
                (await world.http.post("/v1/passwords/forgotten", json=body)).status_code
                for _ in range(4)
            ]
            assert codes == [202, 202, 202, 429]

    async def test_nonsense_tokens_are_refused(self, world):
        for token in ("", "x", "x" * 64):
            body = {"token": token, "password": NEW}
            answer = await world.http.post("/v1/passwords", json=body)
            assert error_of(answer) == (404, "token_invalid")


def test_the_parameters_are_argon2id_with_46_mib():
    passwords = Passwords()
    stored = passwords.hash("seven green lamps")
    assert stored.startswith("$argon2id$v=19$m=47104,t=1,p=1$")
    assert passwords.verify(stored, "seven green lamps")
    assert not passwords.verify(stored, "seven green lamp")
    assert not passwords.verify("not a hash", "seven green lamps")
    assert passwords.hash("seven green lamps") != stored
