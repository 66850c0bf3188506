"""Who belongs to an account, and who runs the marketplace."""

import json
import sys

import pytest

from marketplace.cli import main
from marketplace.users.models import UserRow
from marketplace.users.operators import invite_operator
from marketplace.users.signing_up import MEMBERS_MAX, join
from tests.marketplace.users.people import Somebody, letters, somebody, token_in
from tests.marketplace.world import World, error_of
from tests.postgres import both_engines


async def invited(world, owner, email) -> str:
    assert (await owner.ask("POST", "/v1/members", {"email": email})).status_code == 202
    (letter,) = letters(world)
    assert letter["to"] == email
    return token_in(letter)


async def listed(owner) -> list[dict]:
    return (await owner.ask("GET", "/v1/members")).json()["data"]


def fill(world, account_id, count) -> None:
    """People who belong to the account and never come."""
    with world.market.database.transaction() as session:
        for number in range(count):
            user_id = f"{number:026}"
            session.add(
                UserRow(
                    user_id=user_id, email=f"{number}@crowd.example", password_hash="",
                    created_at_s=1, password_changed_at_s=1,
                )
            )  # fmt: skip
            session.flush()
            join(session, user_id, account_id, "member", now_s=1)


class TestMembers:
    @both_engines
    async def test_somebody_new_joins_by_signing_up(self, world):
        ann = await somebody(world)
        token = await invited(world, ann, "bob@example.com")
        world.pass_time(1)
        bob = Somebody(world, "bob@example.com")
        assert (await bob.sign_up(token=token)).status_code == 202
        await bob.sign_in()
        me = (await bob.ask("GET", "/v1/me")).json()
        assert [place["role"] for place in me["accounts"]] == ["member"]
        assert me["account_id"] == (await ann.ask("GET", "/v1/me")).json()["account_id"]
        listed = (await bob.ask("GET", "/v1/members")).json()["data"]
        assert [(m["email"], m["role"]) for m in listed] == [
            ("ann@example.com", "owner"),
            ("bob@example.com", "member"),
        ]

    async def test_somebody_known_accepts_and_changes_over(self, world):
        ann, bob = await somebody(world), await somebody(world, "bob@example.com")
        token = await invited(world, ann, bob.email)
        assert (await bob.ask("POST", "/v1/invitations", {"token": token})).status_code == 204
        again = await bob.ask("POST", "/v1/invitations", {"token": token})
        assert error_of(again) == (404, "token_invalid")
        account_id = (await ann.ask("GET", "/v1/me")).json()["account_id"]
        body = {"account_id": account_id}
        assert (await bob.ask("PUT", "/v1/logins/current/account", body)).status_code == 204
        assert (await bob.ask("GET", "/v1/account")).json()["account_id"] == account_id

    async def test_an_invitation_is_its_addresses_alone(self, world):
        ann, eve = await somebody(world), await somebody(world, "eve@example.com")
        token = await invited(world, ann, "bob@example.com")
        answer = await eve.ask("POST", "/v1/invitations", {"token": token})
        assert error_of(answer) == (404, "token_invalid")
        thief = Somebody(world, "mallory@example.com")
        assert error_of(await thief.sign_up(token=token)) == (404, "token_invalid")
        bob = Somebody(world, "bob@example.com")
        assert (await bob.sign_up(token=token)).status_code == 202

    async def test_no_more_join_than_an_account_may_have(self, world):
        """Invitations may be more than there is room for: it is counted when they come."""
        ann, bob = await somebody(world), await somebody(world, "bob@example.com")
        tokens = [await invited(world, ann, email) for email in (bob.email, "eve@example.com")]
        account_id = (await ann.ask("GET", "/v1/me")).json()["account_id"]
        fill(world, account_id, MEMBERS_MAX - 2)
        assert (await bob.ask("POST", "/v1/invitations", {"token": tokens[0]})).status_code == 204
        refused = (409, "account_full")
        eve = Somebody(world, "eve@example.com")
        assert error_of(await eve.sign_up(token=tokens[1])) == refused
        assert error_of(await ann.ask("POST", "/v1/members", {"email": "x@y.example"})) == refused
        assert letters(world) == []
        (bobs,) = [m for m in (await listed(ann)) if m["email"] == bob.email]
        assert (await ann.ask("DELETE", f"/v1/members/{bobs['user_id']}")).status_code == 204
        assert (await eve.sign_up(token=tokens[1])).status_code == 202

    async def test_a_wrong_invitation_does_not_tell_of_addresses(self, world):
        ann = await somebody(world)
        for email in (ann.email, "new@example.com"):
            answer = await Somebody(world, email).sign_up(token="wrong")
            assert error_of(answer) == (404, "token_invalid")

    async def test_a_member_manages_neither_keys_nor_people(self, world):
        ann = await somebody(world)
        bob = Somebody(world, "bob@example.com")
        await bob.sign_up(token=await invited(world, ann, bob.email))
        await bob.sign_in()
        for method, path, body in (
            ("POST", "/v1/keys", {"name": "x"}),
            ("POST", "/v1/members", {"email": "eve@example.com"}),
        ):
            assert error_of(await bob.ask(method, path, body)) == (403, "scope_missing")

    async def test_sent_away_their_sessions_for_it_are_over(self, world):
        ann = await somebody(world)
        bob = Somebody(world, "bob@example.com")
        await bob.sign_up(token=await invited(world, ann, bob.email))
        await bob.sign_in()
        user_id = (await bob.ask("GET", "/v1/me")).json()["user_id"]
        assert (await ann.ask("DELETE", f"/v1/members/{user_id}")).status_code == 204
        assert error_of(await bob.ask("GET", "/v1/me")) == (401, "login_invalid")
        assert error_of(await ann.ask("DELETE", f"/v1/members/{user_id}")) == (403, "not_yours")

    async def test_an_account_keeps_an_owner(self, world):
        ann = await somebody(world)
        user_id = (await ann.ask("GET", "/v1/me")).json()["user_id"]
        path = f"/v1/members/{user_id}"
        assert error_of(await ann.ask("DELETE", path)) == (409, "conflict")
        assert error_of(await ann.ask("PUT", path, {"role": "member"})) == (409, "conflict")

    async def test_another_account_cannot_be_chosen(self, world):
        ann, buyer = await somebody(world), await world.buyer()
        body = {"account_id": buyer.account_id}
        answer = await ann.ask("PUT", "/v1/logins/current/account", body)
        assert error_of(answer) == (403, "not_yours")


class TestClaim:
    async def test_an_account_of_keys_gets_an_owner_once(self, world):
        ann, bob = await somebody(world), await somebody(world, "bob@example.com")
        buyer = await world.buyer()
        body = {"api_key": buyer.api_key}
        assert (await ann.ask("POST", "/v1/me/accounts/claim", body)).status_code == 204
        accounts = (await ann.ask("GET", "/v1/me")).json()["accounts"]
        assert buyer.account_id in {place["account_id"] for place in accounts}
        answer = await bob.ask("POST", "/v1/me/accounts/claim", body)
        assert error_of(answer) == (409, "conflict")

    async def test_needs_a_key_that_manages(self, world):
        ann, buyer = await somebody(world), await world.buyer()
        made = await world.http.post("/v1/keys", json={"name": "x"}, headers=buyer.headers)
        for key, refusal in (
            (made.json()["api_key"], (403, "scope_missing")),
            ("nonsense", (401, "key_invalid")),
            (ann.token, (401, "login_invalid")),
        ):
            answer = await ann.ask("POST", "/v1/me/accounts/claim", {"api_key": key})
            assert error_of(answer) == refusal


class TestOperator:
    """The dependency, asked as an endpoint asks it."""

    @pytest.fixture
    def path(self, world):
        from marketplace.endpoints import Operator

        async def only_for_operators(caller: Operator) -> str:
            return caller.name

        world.app.get("/test/operator")(only_for_operators)
        return "/test/operator"

    @both_engines
    async def test_needs_the_role_and_a_code_of_today(self, world, path):
        ann = Somebody(world, "ann@example.com")
        token = invite_operator(world.market, " Ann@Example.com")
        assert (await ann.sign_up(token=token)).status_code == 202
        await ann.sign_in()
        assert error_of(await ann.ask("GET", path)) == (403, "code_needed")
        await ann.enrol()
        assert (await world.http.get(path, headers=ann.headers)).status_code == 200
        world.pass_time(12 * 3600)
        assert error_of(await ann.ask("GET", path)) == (403, "code_needed")
        shown = await ann.ask("POST", "/v1/logins/current/code", {"code": ann.code()})
        assert shown.status_code == 200
        assert (await world.http.get(path, headers=ann.headers)).status_code == 200

    async def test_nobody_else(self, world, path):
        ann, buyer = await somebody(world), await world.buyer()
        await ann.enrol()
        assert error_of(await ann.ask("GET", path)) == (403, "operator_only")
        answer = await world.http.get(path, headers=buyer.headers)
        assert error_of(answer) == (401, "login_invalid")
        assert error_of(await world.http.get(path)) == (401, "key_invalid")

    async def test_a_token_for_another_address_makes_nobody_one(self, world):
        eve = await somebody(world, "eve@example.com")
        token = invite_operator(world.market, "ann@example.com")
        answer = await eve.ask("POST", "/v1/invitations", {"token": token})
        assert error_of(answer) == (404, "token_invalid")


class TestCommandLine:
    @pytest.fixture
    async def closed(self, home):
        async with World(home) as world:
            await Somebody(world, "ann@example.com").sign_up()
            await Somebody(world, "ann@example.com").sign_up()
        return home

    def run(self, monkeypatch, capsys, *arguments):
        monkeypatch.setattr(sys, "argv", ["piecework-market", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        captured = capsys.readouterr()
        return done.value.code, captured.out, captured.err

    def test_add_prints_a_token_and_nothing_else(self, closed, monkeypatch, capsys):
        arguments = ("operator", "add", "ann@example.com", "--home", str(closed))
        code, out, said = self.run(monkeypatch, capsys, *arguments)
        assert code == 0
        assert len(out.strip()) == 43
        assert "ann@example.com" in said

    def test_an_address_that_is_none(self, closed, monkeypatch, capsys):
        arguments = ("operator", "add", "ann", "--home", str(closed))
        code, out, said = self.run(monkeypatch, capsys, *arguments)
        assert (code, out) == (1, "")
        assert "'ann' is no e-mail address" in said

    def test_letters_are_printed_once(self, closed, monkeypatch, capsys):
        arguments = ("operator", "mail", "--home", str(closed))
        code, out, _ = self.run(monkeypatch, capsys, *arguments)
        assert code == 0
        (letter,) = [json.loads(line) for line in out.splitlines()]
        assert letter["to"] == "ann@example.com"
        assert self.run(monkeypatch, capsys, *arguments)[1] == ""
