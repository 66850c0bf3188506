"""Accounts and API keys."""

import pytest
from sqlalchemy import text

from tests.marketplace.world import error_of


class TestCreateAccount:
    async def test_key_is_told_once_and_only_its_hash_is_kept(self, world):
        buyer = await world.buyer()
        prefix, live, key_id, secret = buyer.api_key.split("_", 3)
        assert (prefix, live, key_id, len(secret)) == ("pw", "live", buyer.key_id, 43)
        with world.market.database.reading() as session:
            (row,) = session.execute(text("SELECT * FROM market_api_key")).all()
        assert key_id in repr(row)
        assert secret not in repr(row)
        assert secret.encode() not in bytes(row.secret_hash)

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"name": ""},
            {"name": 7},
            {"name": "x", "colour": "red"},
            {"name": "x" * 129},
            {"name": "a\x00b"},
        ],
    )
    async def test_nonsense_is_400_in_our_own_shape(self, world, body):
        answer = await world.http.post("/v1/accounts", json=body)
        assert error_of(answer) == (400, "malformed")

    @pytest.mark.parametrize("content", [b"{", b'{"name": "\\ud800"}', b"\xff", b"", b"[" * 9999])
    async def test_broken_json_is_400(self, world, content):
        answer = await world.http.post(
            "/v1/accounts", content=content, headers={"content-type": "application/json"}
        )
        assert error_of(answer) == (400, "malformed")


class TestShowAccount:
    async def test_new_account_is_empty(self, world):
        buyer = await world.buyer()
        answer = await world.http.get("/v1/account", headers=buyer.headers)
        assert answer.json() == {
            "account_id": buyer.account_id,
            "name": "somebody",
            "balance": {"available_nanos": 0, "held_nanos": 0, "posted_nanos": 0},
        }

    async def test_a_wrong_key_is_refused(self, world):
        buyer = await world.buyer()
        wrong = buyer.api_key[:-1] + ("A" if buyer.api_key[-1] != "A" else "B")
        for given in (
            None,
            "Bearer ",
            f"Basic {buyer.api_key}",
            f"Bearer {wrong}",
            "Bearer pw_live_aaaaaaaa_" + "A" * 43,
            "Bearer pw_live_",
            "Bearer " + "x" * 500,
        ):
            headers = {} if given is None else {"authorization": given}
            answer = await world.http.get("/v1/account", headers=headers)
            assert error_of(answer) == (401, "key_invalid")
            assert answer.headers["www-authenticate"] == "Bearer"


class TestKeys:
    async def test_made_listed_and_revoked(self, world):
        buyer = await world.buyer()
        made = await world.http.post("/v1/keys", json={"name": "laptop"}, headers=buyer.headers)
        assert made.status_code == 201
        key = made.json()
        assert key["scopes"] == ["inference"]
        with_new = {"authorization": f"Bearer {key['api_key']}"}
        assert (await world.http.get("/v1/account", headers=with_new)).status_code == 200

        world.worker.do("forget")
        listed = (await world.http.get("/v1/keys", headers=buyer.headers)).json()["data"]
        assert sorted(k["name"] for k in listed) == ["first", "laptop"]
        assert all("api_key" not in k for k in listed)
        assert all(k["last_used_at_s"] == world.clock.now for k in listed)

        path = f"/v1/keys/{key['key_id']}"
        assert (await world.http.delete(path, headers=buyer.headers)).status_code == 204
        assert (await world.http.delete(path, headers=buyer.headers)).status_code == 204
        refused = await world.http.get("/v1/account", headers=with_new)
        assert error_of(refused) == (401, "key_invalid")
        listed = (await world.http.get("/v1/keys", headers=buyer.headers)).json()["data"]
        revoked = {k["key_id"]: k["revoked_at_s"] for k in listed}
        assert revoked[key["key_id"]] == world.clock.now
        assert revoked[buyer.key_id] is None

    async def test_an_inference_key_cannot_manage_keys(self, world):
        buyer = await world.buyer()
        made = await world.http.post("/v1/keys", json={"name": "x"}, headers=buyer.headers)
        headers = {"authorization": f"Bearer {made.json()['api_key']}"}
        for method in ("GET", "POST"):
            answer = await world.http.request(
                method, "/v1/keys", headers=headers, json={"name": "y"}
            )
            assert error_of(answer) == (403, "scope_missing")

    async def test_a_management_key_cannot_buy(self, world):
        buyer = await world.buyer()
        body = {"name": "x", "scopes": ["management"]}
        made = await world.http.post("/v1/keys", json=body, headers=buyer.headers)
        buyer.api_key = made.json()["api_key"]
        assert error_of(await world.quote(buyer)) == (403, "scope_missing")

    async def test_unknown_scope_is_400(self, world):
        buyer = await world.buyer()
        body = {"name": "x", "scopes": ["root"]}
        answer = await world.http.post("/v1/keys", json=body, headers=buyer.headers)
        assert error_of(answer) == (400, "malformed")

    async def test_another_accounts_key_is_unknown(self, world):
        buyer, other = await world.buyer(), await world.buyer()
        answer = await world.http.delete(f"/v1/keys/{other.key_id}", headers=buyer.headers)
        assert error_of(answer) == (404, "key_unknown")
        assert (await world.http.get("/v1/account", headers=other.headers)).status_code == 200

    async def test_keys_are_bounded(self, world, monkeypatch):
        monkeypatch.setattr("marketplace.keys.service.KEYS_MAX", 2)
        buyer = await world.buyer()
        answers = [
            await world.http.post("/v1/keys", json={"name": "x"}, headers=buyer.headers)
            for _ in range(2)
        ]
        assert answers[0].status_code == 201
        assert error_of(answers[1]) == (409, "conflict")
