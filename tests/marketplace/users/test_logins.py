"""Web sessions: how long they last, what ends them, and whose page may use their cookie."""

import httpx
import pytest

from tests.marketplace.users.people import Somebody, somebody
from tests.marketplace.world import World, error_of
from tests.postgres import both_engines

OURS = "http://market"
DAY_S = 24 * 3600


def browser(world) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=world.app), base_url=OURS)


async def cookie_login(world, client, ann, **headers) -> httpx.Response:
    body = {"email": ann.email, "password": ann.password, "cookie": True}
    return await client.post("/v1/logins", json=body, headers=headers)


class TestTokens:
    async def test_a_wrong_one_is_refused(self, world):
        ann = await somebody(world)
        other = ann.token[:-1] + ("A" if ann.token[-1] != "A" else "B")
        for token in (other, "pws_", "pws_" + "x" * 43, "pws_" + "x" * 100):
            answer = await world.http.get("/v1/me", headers={"authorization": f"Bearer {token}"})
            assert error_of(answer) == (401, "login_invalid")

    async def test_an_api_key_is_no_person(self, world):
        buyer = await world.buyer()
        answer = await world.http.get("/v1/me", headers=buyer.headers)
        assert error_of(answer) == (401, "login_invalid")

    @both_engines
    async def test_it_lasts_while_it_is_used_and_no_longer_than_ninety_days(self, world):
        ann = await somebody(world)
        for _ in range(6):
            world.pass_time(13 * DAY_S)
            assert (await ann.ask("GET", "/v1/me")).status_code == 200
        world.pass_time(13 * DAY_S)
        assert error_of(await ann.ask("GET", "/v1/me")) == (401, "login_invalid")

    async def test_it_ends_after_two_weeks_without_use(self, world):
        ann = await somebody(world)
        world.pass_time(14 * DAY_S)
        assert error_of(await ann.ask("GET", "/v1/me")) == (401, "login_invalid")
        world.worker.do("forget-users")
        await ann.sign_in()
        assert len((await ann.ask("GET", "/v1/logins")).json()["data"]) == 1

    async def test_each_sign_in_is_a_session_of_its_own(self, world):
        """Whatever token or cookie came with it is not taken over."""
        ann = await somebody(world)
        planted = ann.token
        world.http.cookies.set("piecework", planted)
        body = {"email": ann.email, "password": ann.password}
        headers = {"authorization": f"Bearer {planted}"}
        answer = await world.http.post("/v1/logins", json=body, headers=headers)
        world.http.cookies.clear()
        assert answer.json()["token"] != planted


class TestListing:
    async def test_listed_and_ended(self, world):
        ann = await somebody(world)
        phone = Somebody(world, ann.email)
        world.pass_time(10)
        await phone.sign_in()
        listed = (await ann.ask("GET", "/v1/logins")).json()["data"]
        assert [login["current"] for login in listed] == [False, True]
        assert "token" not in str(listed)
        path = f"/v1/logins/{listed[0]['login_id']}"
        assert (await ann.ask("DELETE", path)).status_code == 204
        assert (await ann.ask("DELETE", path)).status_code == 204
        assert error_of(await phone.ask("GET", "/v1/me")) == (401, "login_invalid")
        assert (await ann.ask("GET", "/v1/me")).status_code == 200

    async def test_nobody_ends_anothers(self, world):
        ann, bob = await somebody(world), await somebody(world, "bob@example.com")
        listed = (await ann.ask("GET", "/v1/logins")).json()["data"]
        await bob.ask("DELETE", f"/v1/logins/{listed[0]['login_id']}")
        assert (await ann.ask("GET", "/v1/me")).status_code == 200

    async def test_signing_out(self, world):
        ann = await somebody(world)
        assert (await ann.ask("DELETE", "/v1/logins/current")).status_code == 204
        assert error_of(await ann.ask("GET", "/v1/me")) == (401, "login_invalid")

    async def test_signing_out_elsewhere(self, world):
        ann = await somebody(world)
        phone = Somebody(world, ann.email)
        await phone.sign_in()
        assert (await ann.ask("DELETE", "/v1/logins")).status_code == 204
        assert error_of(await phone.ask("GET", "/v1/me")) == (401, "login_invalid")
        assert (await ann.ask("GET", "/v1/me")).status_code == 200

    async def test_sessions_are_bounded_and_the_oldest_goes(self, world, monkeypatch):
        monkeypatch.setattr("marketplace.users.logins.LOGINS_MAX", 2)
        ann = await somebody(world)
        for _ in range(2):
            world.pass_time(1)
            await Somebody(world, ann.email).sign_in()
        assert error_of(await ann.ask("GET", "/v1/me")) == (401, "login_invalid")


class TestCookie:
    @pytest.fixture
    async def ann(self, world):
        return await somebody(world)

    async def test_set_out_of_reach_of_scripts(self, world, ann):
        async with browser(world) as client:
            answer = await cookie_login(world, client, ann, origin=OURS)
            assert answer.json() == {"token": None}
            cookie = answer.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=lax" in cookie
            assert "Path=/" in cookie
            assert "Secure" not in cookie
            assert (await client.get("/v1/me")).status_code == 200

    async def test_secure_and_of_this_host_alone_where_it_is_https(self, home):
        async with World(home, public_url="https://pool.example") as world:
            ann = await somebody(world)
            body = {"email": ann.email, "password": ann.password, "cookie": True}
            own = {"origin": "https://pool.example"}
            answer = await world.http.post("/v1/logins", json=body, headers=own)
            cookie = answer.headers["set-cookie"]
            assert cookie.startswith("__Host-piecework=")
            assert "Secure" in cookie
            assert "Domain" not in cookie
            http = {"origin": "http://pool.example"}
            refused = await world.http.post("/v1/logins", json=body, headers=http)
            assert error_of(refused) == (403, "foreign_origin")

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": "http://market.evil.example"},
            {"origin": "https://market"},
            {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {},
        ],
    )
    async def test_another_sites_page_changes_nothing(self, world, ann, headers):
        async with browser(world) as client:
            await cookie_login(world, client, ann, origin=OURS)
            answer = await client.post("/v1/keys", json={"name": "stolen"}, headers=headers)
            assert error_of(answer) == (403, "foreign_origin")
            answer = await client.delete("/v1/logins/current", headers=headers)
            assert error_of(answer) == (403, "foreign_origin")
            assert (await client.get("/v1/me")).status_code == 200

    @pytest.mark.parametrize("headers", [{"origin": OURS}, {"sec-fetch-site": "same-origin"}])
    async def test_our_own_page_may(self, world, ann, headers):
        async with browser(world) as client:
            await cookie_login(world, client, ann, origin=OURS)
            answer = await client.post("/v1/keys", json={"name": "mine"}, headers=headers)
            assert answer.status_code == 201
            gone = await client.delete("/v1/logins/current", headers=headers)
            assert gone.status_code == 204
            assert error_of(await client.get("/v1/me")) == (401, "key_invalid")

    async def test_nobody_is_signed_in_by_another_sites_page(self, world, ann):
        async with browser(world) as client:
            answer = await cookie_login(world, client, ann, origin="http://evil.example")
            assert error_of(answer) == (403, "foreign_origin")
            assert not client.cookies

    async def test_a_wrong_header_never_makes_way_for_the_cookie(self, world, ann):
        async with browser(world) as client:
            await cookie_login(world, client, ann, origin=OURS)
            headers = {"authorization": "Bearer pws_wrong"}
            answer = await client.get("/v1/me", headers=headers)
            assert error_of(answer) == (401, "login_invalid")

    async def test_a_token_that_changes_comes_as_the_old_one_did(self, world, ann):
        async with browser(world) as client:
            await cookie_login(world, client, ann, origin=OURS)
            before = client.cookies["piecework"]
            body = {"password": ann.password, "new_password": "another long one"}
            answer = await client.put("/v1/me/password", json=body, headers={"origin": OURS})
            assert answer.json() == {"token": None}
            assert client.cookies["piecework"] != before
            assert (await client.get("/v1/me")).status_code == 200
