"""A node asks whose it is, and a person answers: over HTTP."""

import re

import pytest

from marketplace.machines import service
from marketplace.machines.codes import in_two, make_user_code, parse_user_code
from marketplace.users.passwords import Passwords
from protocol.identity import KeyPair
from tests.marketplace.users.people import somebody
from tests.marketplace.world import World, error_of
from tests.postgres import both_engines


@pytest.fixture
async def world(home, database_url):
    async with World(home, database_url=database_url) as running:
        object.__setattr__(running.market, "passwords", Passwords(memory_kib=1024))
        yield running


class Device:
    """A node that waits."""

    def __init__(self, world, key=None) -> None:
        self.world = world
        self.key = key or KeyPair.generate()
        self.peer = str(self.key.peer_id)

    async def begin(self, name="desk", purpose="machine") -> dict:
        body = {"name": name, "purpose": purpose}
        answer = await self.world.node(self.key, "POST", "/v1/device/code", body=body)
        assert answer.status_code == 200, answer.text
        self.code = answer.json()
        return self.code

    async def poll(self):
        body = {"device_code": self.code["device_code"]}
        return await self.world.node(self.key, "POST", "/v1/device/token", body=body)

    async def own(self) -> dict:
        return (await self.world.node(self.key, "GET", "/v1/machine")).json()


async def approve(person, device):
    return await person.ask("POST", "/v1/device/approve", {"user_code": device.code["user_code"]})


class TestUserCodes:
    def test_short_and_without_letters_that_are_misread(self):
        code = in_two(make_user_code())
        assert re.fullmatch(r"[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}", code)

    @pytest.mark.parametrize("typed", ["BCDF-GHJK", "bcdfghjk", " bcdf ghjk ", "BCDF–GHJK"])
    def test_however_it_is_typed(self, typed):
        assert parse_user_code(typed) == "BCDFGHJK"


class TestBinding:
    @both_engines
    async def test_from_the_code_to_the_account(self, world):
        ann, device = await somebody(world), Device(world)
        code = await device.begin()
        assert code["verification_uri"] == "http://market/device"
        assert error_of(await device.poll()) == (400, "authorization_pending")
        looked = await ann.ask("POST", "/v1/device/look", {"user_code": code["user_code"]})
        shown = looked.json()
        assert (shown["peer_id"], shown["name"], shown["moves"]) == (device.peer, "desk", False)
        assert (await approve(ann, device)).json() == shown
        world.pass_time(5)
        answer = (await device.poll()).json()
        me = (await ann.ask("GET", "/v1/me")).json()
        assert answer["account_id"] == me["account_id"]
        assert answer["api_key"] is None
        assert (await device.own())["account_name"] == "My account"
        listed = (await ann.ask("GET", "/v1/machines")).json()["data"]
        assert [machine["peer_id"] for machine in listed] == [device.peer]
        with world.market.database.reading() as session:
            assert service.account_of(session, device.peer) == me["account_id"]

    async def test_a_node_without_an_account_is_told_so(self, world):
        own = await Device(world).own()
        assert own["account_id"] is None

    async def test_unsigned_it_binds_nobody(self, world):
        answer = await world.http.post("/v1/device/code", json={"name": "desk"})
        assert error_of(answer) == (401, "request_unsigned")

    async def test_a_code_is_approved_once(self, world):
        ann, bob = await somebody(world), await somebody(world, "bob@example.com")
        device = Device(world)
        await device.begin()
        await approve(ann, device)
        assert error_of(await approve(bob, device)) == (404, "user_code_unknown")

    async def test_only_the_device_itself_hears_the_answer(self, world):
        ann, device, thief = await somebody(world), Device(world), Device(world)
        thief.code = await device.begin(purpose="key")
        await approve(ann, device)
        assert error_of(await thief.poll()) == (400, "expired_token")
        assert (await device.poll()).status_code == 200

    async def test_denied(self, world):
        ann, device = await somebody(world), Device(world)
        code = await device.begin()
        denied = await ann.ask("POST", "/v1/device/deny", {"user_code": code["user_code"]})
        assert denied.status_code == 204
        assert error_of(await device.poll()) == (400, "access_denied")
        assert (await device.own())["account_id"] is None

    async def test_too_late(self, world):
        ann, device = await somebody(world), Device(world)
        await device.begin()
        world.pass_time(600)
        assert error_of(await approve(ann, device)) == (404, "user_code_unknown")
        assert error_of(await device.poll()) == (400, "expired_token")
        world.worker.do("forget-users")
        assert error_of(await device.poll()) == (400, "expired_token")

    async def test_polled_too_soon_the_interval_grows(self, world):
        device = Device(world)
        await device.begin()
        assert error_of(await device.poll()) == (400, "authorization_pending")
        soon = await device.poll()
        assert error_of(soon) == (400, "slow_down")
        assert soon.json()["error"]["details"] == {"interval_s": 10}
        world.pass_time(9)
        assert error_of(await device.poll()) == (400, "slow_down")
        world.pass_time(15)
        assert error_of(await device.poll()) == (400, "authorization_pending")

    async def test_the_key_scope_inference_approves_nothing(self, world):
        buyer, device = await world.buyer(), Device(world)
        made = await world.http.post("/v1/keys", json={"name": "x"}, headers=buyer.headers)
        code = await device.begin()
        for key, status in ((made.json()["api_key"], 403), (buyer.api_key, 200)):
            headers = {"authorization": f"Bearer {key}"}
            body = {"user_code": code["user_code"]}
            answer = await world.http.post("/v1/device/approve", json=body, headers=headers)
            assert answer.status_code == status

    async def test_codes_are_not_guessed(self, world):
        ann, device = await somebody(world), Device(world)
        await device.begin()
        for _ in range(20):
            answer = await ann.ask("POST", "/v1/device/look", {"user_code": "BBBB-BBBB"})
            assert error_of(answer) == (404, "user_code_unknown")
        assert error_of(await approve(ann, device)) == (429, "too_many_attempts")

    async def test_a_machine_has_few_codes_and_the_oldest_goes(self, world):
        ann, device = await somebody(world), Device(world)
        first = await device.begin()
        for _ in range(5):
            world.pass_time(1)
            await device.begin()
        answer = await ann.ask("POST", "/v1/device/look", {"user_code": first["user_code"]})
        assert error_of(answer) == (404, "user_code_unknown")
        for _ in range(4):
            await device.begin()
        body = {"name": "desk"}
        refused = await world.node(device.key, "POST", "/v1/device/code", body=body)
        assert error_of(refused) == (429, "too_many_attempts")

    @pytest.mark.parametrize("name", ["", "x" * 129, "a\x1b[2Jb", 7])
    async def test_a_name_that_would_deceive_is_400(self, world, name):
        body = {"name": name}
        answer = await world.node(KeyPair.generate(), "POST", "/v1/device/code", body=body)
        assert error_of(answer) == (400, "malformed")


class TestKeys:
    @both_engines
    async def test_a_key_is_told_once(self, world):
        ann, device = await somebody(world), Device(world)
        await device.begin(name="laptop", purpose="key")
        await approve(ann, device)
        answer = (await device.poll()).json()
        headers = {"authorization": f"Bearer {answer['api_key']}"}
        assert (await world.http.get("/v1/account", headers=headers)).status_code == 200
        assert error_of(await device.poll()) == (400, "expired_token")
        assert (await device.own())["account_id"] is None
        keys = (await ann.ask("GET", "/v1/keys")).json()["data"]
        assert [(key["name"], key["scopes"]) for key in keys] == [("laptop", ["inference"])]


class TestMoving:
    @both_engines
    async def test_with_a_new_signature_and_approval_and_the_history_is_kept(self, world):
        ann, bob = await somebody(world), await somebody(world, "bob@example.com")
        device = Device(world)
        await device.begin()
        await approve(ann, device)
        world.pass_time(100)
        code = await device.begin()
        looked = await bob.ask("POST", "/v1/device/look", {"user_code": code["user_code"]})
        assert looked.json()["moves"] is True
        await approve(bob, device)
        owners = [(await who.ask("GET", "/v1/me")).json()["account_id"] for who in (ann, bob)]
        now_s = world.clock.now
        with world.market.database.reading() as session:
            assert service.account_of(session, device.peer) == owners[1]
            assert service.account_at(session, device.peer, now_s - 1) == owners[0]
            assert service.account_at(session, device.peer, now_s) == owners[1]
            assert service.account_at(session, device.peer, now_s - 1000) is None
        (left,) = (await ann.ask("GET", "/v1/machines/history")).json()["data"]
        assert left["unbound_at_s"] == now_s
        assert left["unbound_by"].startswith("user:")
        assert (await ann.ask("GET", "/v1/machines")).json()["data"] == []

    async def test_approved_again_by_its_own_account_it_stays(self, world):
        ann, device = await somebody(world), Device(world)
        for name in ("desk", "shelf"):
            await device.begin(name)
            await approve(ann, device)
        assert (await device.own())["name"] == "shelf"
        assert len((await ann.ask("GET", "/v1/machines/history")).json()["data"]) == 1

    async def test_renamed_and_unbound_by_its_own_account_alone(self, world):
        ann, bob = await somebody(world), await somebody(world, "bob@example.com")
        device = Device(world)
        await device.begin()
        await approve(ann, device)
        path = f"/v1/machines/{device.peer}"
        for method, body in (("PATCH", {"name": "mine"}), ("DELETE", None)):
            assert error_of(await bob.ask(method, path, body)) == (404, "machine_unknown")
        assert (await ann.ask("PATCH", path, {"name": "shelf"})).json()["name"] == "shelf"
        assert (await ann.ask("DELETE", path)).status_code == 204
        assert error_of(await ann.ask("DELETE", path)) == (404, "machine_unknown")
        assert (await device.own())["account_id"] is None

    async def test_machines_are_bounded(self, world, monkeypatch):
        monkeypatch.setattr("marketplace.machines.service.MACHINES_MAX", 1)
        ann = await somebody(world)
        devices = [Device(world), Device(world)]
        answers = []
        for device in devices:
            await device.begin()
            answers.append(await approve(ann, device))
        assert answers[0].status_code == 200
        assert error_of(answers[1]) == (409, "too_many_machines")


class TestMachineOrMember:
    """The dependency, asked as an endpoint asks it."""

    @pytest.fixture
    def path(self, world):
        from marketplace.endpoints import MachineOrMember

        async def whose(earner: MachineOrMember) -> str:
            return earner.account_id

        world.app.get("/test/earner")(whose)
        return "/test/earner"

    async def test_its_machine_and_its_people_alike(self, world, path):
        ann, device, buyer = await somebody(world), Device(world), await world.buyer()
        unbound = await world.node(device.key, "GET", path)
        assert error_of(unbound) == (403, "machine_unbound")
        await device.begin()
        await approve(ann, device)
        bound = await world.node(device.key, "GET", path)
        assert bound.json() == (await world.http.get(path, headers=ann.headers)).json()
        mine = await world.http.get(path, headers=buyer.headers)
        assert mine.json() == buyer.account_id
        assert error_of(await world.http.get(path)) == (401, "key_invalid")

    async def test_a_signed_request_is_taken_once(self, world, path):
        device = Device(world)
        headers = world.signed(device.key, "GET", path)
        await world.http.get(path, headers=headers)
        again = await world.http.get(path, headers=headers)
        assert error_of(again) == (401, "request_replayed")


class TestPage:
    async def test_speaks_to_this_marketplace_alone(self, world):
        answer = await world.http.get("/device")
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "innerHTML" not in answer.text
