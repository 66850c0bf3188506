"""One-time codes: the algorithm, and enrolling and showing them over HTTP."""

import pyotp
import pytest

from marketplace.users.codes import make_recovery_codes, recovery_hash, step_of
from marketplace.users.seeds import make_salt, seed_of
from protocol.identity import KeyPair
from tests.marketplace.users.people import Somebody, somebody
from tests.marketplace.world import error_of
from tests.postgres import both_engines

RFC_SEED = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
"""RFC 6238, appendix B: the ASCII digits 1234567890 twice, in base32."""


class TestStepOf:
    @pytest.mark.parametrize(
        ("now_s", "code"),
        [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")],
    )
    def test_vectors_of_the_rfc(self, now_s, code):
        assert step_of(RFC_SEED, code, now_s=now_s) == now_s // 30

    @pytest.mark.parametrize(("off_s", "taken"), [(-60, 0), (-30, 1), (0, 1), (30, 1), (60, 0)])
    def test_one_step_before_and_after(self, off_s, taken):
        now_s = 1_800_000_000
        code = pyotp.TOTP(RFC_SEED).at(now_s + off_s)
        assert (step_of(RFC_SEED, code, now_s=now_s) is not None) == bool(taken)


class TestSeeds:
    def test_each_person_salt_and_key_has_another(self):
        key, salt = KeyPair.generate(), make_salt()
        seeds = {
            seed_of(key, "ann", salt),
            seed_of(key, "bob", salt),
            seed_of(key, "ann", make_salt()),
            seed_of(KeyPair.generate(), "ann", salt),
        }
        assert len(seeds) == 4
        assert {len(seed) for seed in seeds} == {32}


class TestRecoveryCodes:
    def test_as_they_are_typed(self):
        code, *others = make_recovery_codes()
        assert len({code, *others}) == 10
        typed = f" {code.upper().replace('-', ' ')}"
        assert recovery_hash("ann", typed) == recovery_hash("ann", code)
        assert recovery_hash("bob", code) != recovery_hash("ann", code)


class TestEnrolling:
    @both_engines
    async def test_from_then_on_a_code_is_asked_for(self, world):
        ann = await somebody(world)
        await ann.enrol()
        assert len(ann.recovery_codes) == 10
        phone = Somebody(world, ann.email, secret=ann.secret)
        assert error_of(await phone.sign_in()) == (401, "code_needed")
        assert error_of(await phone.sign_in(code="000000")) == (401, "sign_in_failed")
        assert (await phone.sign_in(code=phone.code())).status_code == 201

    async def test_without_the_right_password_the_code_is_not_asked_for(self, world):
        ann = await somebody(world)
        await ann.enrol()
        guess = Somebody(world, ann.email, password="one guess more")
        assert error_of(await guess.sign_in()) == (401, "sign_in_failed")

    async def test_not_before_it_is_confirmed(self, world):
        ann = await somebody(world)
        await ann.ask("POST", "/v1/me/totp", {"password": ann.password})
        assert (await ann.sign_in()).status_code == 201
        wrong = await ann.ask("POST", "/v1/me/totp/confirm", {"code": "123456"})
        assert error_of(wrong) == (401, "sign_in_failed")
        assert (await ann.sign_in()).status_code == 201

    async def test_needs_the_password_again(self, world):
        ann = await somebody(world)
        answer = await ann.ask("POST", "/v1/me/totp", {"password": "not this one"})
        assert error_of(answer) == (401, "sign_in_failed")

    async def test_a_second_authenticator_does_not_take_the_firsts_place(self, world):
        ann = await somebody(world)
        await ann.enrol()
        answer = await ann.ask("POST", "/v1/me/totp", {"password": ann.password})
        assert error_of(answer) == (409, "conflict")

    async def test_every_other_session_ends_and_this_one_gets_a_new_token(self, world):
        ann, phone = await somebody(world), Somebody(world, "ann@example.com")
        await phone.sign_in()
        before = ann.token
        await ann.enrol()
        assert ann.token != before
        for token in (before, phone.token):
            answer = await world.http.get("/v1/me", headers={"authorization": f"Bearer {token}"})
            assert error_of(answer) == (401, "login_invalid")
        assert (await ann.ask("GET", "/v1/me")).json()["has_totp"] is True


class TestShowing:
    @both_engines
    async def test_a_code_works_once(self, world):
        ann = await somebody(world)
        await ann.enrol()
        code = ann.code()
        assert (await ann.sign_in(code=code)).status_code == 201
        assert error_of(await ann.sign_in(code=code)) == (401, "sign_in_failed")
        shown = await ann.ask("POST", "/v1/logins/current/code", {"code": code})
        assert error_of(shown) == (401, "sign_in_failed")

    async def test_an_older_code_of_the_window_is_not_taken_after_a_newer(self, world):
        ann = await somebody(world)
        await ann.enrol()
        older, newer = ann.code(), ann.code()
        assert (await ann.sign_in(code=newer)).status_code == 201
        assert error_of(await ann.sign_in(code=older)) == (401, "sign_in_failed")

    async def test_the_code_of_enrolment_is_spent_too(self, world):
        ann = await somebody(world)
        begun = await ann.ask("POST", "/v1/me/totp", {"password": ann.password})
        ann.secret = begun.json()["secret"]
        code = ann.code()
        await ann.ask("POST", "/v1/me/totp/confirm", {"code": code})
        assert error_of(await ann.sign_in(code=code)) == (401, "sign_in_failed")

    async def test_a_recovery_code_works_once(self, world):
        ann = await somebody(world)
        await ann.enrol()
        code = ann.recovery_codes[0].upper()
        assert (await ann.sign_in(code=code)).status_code == 201
        assert error_of(await ann.sign_in(code=code)) == (401, "sign_in_failed")
        assert (await ann.sign_in(code=ann.recovery_codes[1])).status_code == 201

    async def test_five_guesses_and_no_more_even_with_the_right_one(self, world):
        ann = await somebody(world)
        await ann.enrol()
        world.pass_time(900)
        answers = [await ann.sign_in(code="000000") for _ in range(5)]
        assert {error_of(answer) for answer in answers} == {(401, "sign_in_failed")}
        assert error_of(await ann.sign_in(code=ann.code())) == (429, "too_many_attempts")
        world.pass_time(900)
        assert (await ann.sign_in(code=ann.code())).status_code == 201

    @pytest.mark.parametrize("code", ["", "12345", "1234567", "١٢٣٤٥٦", "abcdef", "aaaa" * 4, "-"])
    async def test_what_is_no_code_is_refused_alike(self, world, code):
        ann = await somebody(world)
        await ann.enrol()
        assert error_of(await ann.sign_in(code=code)) == (401, "sign_in_failed")


class TestRemoving:
    async def test_with_password_and_code(self, world):
        ann = await somebody(world)
        await ann.enrol()
        body = {"password": ann.password, "code": "000000"}
        assert error_of(await ann.ask("POST", "/v1/me/totp/remove", body))[0] == 401
        body["code"] = ann.code()
        assert (await ann.ask("POST", "/v1/me/totp/remove", body)).status_code == 200
        assert (await ann.sign_in()).status_code == 201
