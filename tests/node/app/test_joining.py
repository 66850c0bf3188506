"""Asking a person whose this machine is, of a marketplace in this process and of a scripted one."""

import asyncio
import dataclasses

import httpx
import pytest

from node.account_client import AccountClient, DeviceAnswer, DeviceCode, OwnMachine
from node.app import joining
from node.app.joining import (
    DeviceRefused,
    DeviceUnanswered,
    bind_machine,
    wait_for_approval,
    waits_for_owner,
)
from node.config import Home
from node.errors import ConfigInvalid, MarketRefused, MarketUnreachable
from protocol.identity import KeyPair
from tests.marketplace.world import World

CODE = DeviceCode("secret", "BCDF-GHJK", "http://market/device", "http://market/device#x", 5, 0.01)
ANSWER = DeviceAnswer("a" * 32, "Ann's", "", "")


class Screen:
    """Keeps what a person would see, and calls them when the code is there."""

    def __init__(self, on_show=None) -> None:
        self.codes: list[DeviceCode] = []
        self.waits = 0
        self.closed = 0
        self._on_show = on_show

    def show(self, code) -> None:
        self.codes.append(code)
        if self._on_show is not None:
            self._on_show(code)

    def wait(self, left_s) -> None:
        assert left_s >= 0
        self.waits += 1

    def close(self) -> None:
        self.closed += 1


class Scripted(AccountClient):
    """Answers polls one after the other with what it was given."""

    def __init__(self, *answers, code=CODE) -> None:
        super().__init__("http://market", KeyPair.generate())
        self.answers = list(answers)
        self.code = code

    async def begin_device(self, name, purpose):
        return self.code

    async def ask_device(self, device_code):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def refused(code, status=400) -> MarketRefused:
    return MarketRefused(status, code, code)


class TestWaitForApproval:
    async def ask(self, *answers, code=CODE, stop=None):
        self.screen = Screen()
        client = Scripted(*answers, code=code)
        try:
            return await wait_for_approval(client, "machine", self.screen, stop or asyncio.Event())
        finally:
            assert self.screen.closed == 1
            await client.close()

    async def test_until_it_is_approved(self):
        assert await self.ask(refused("authorization_pending"), ANSWER) == ANSWER
        assert self.screen.codes == [CODE]
        assert self.screen.waits >= 2

    async def test_slower_when_it_is_told_so_and_when_nobody_answers(self, monkeypatch):
        monkeypatch.setattr(joining, "SLOWER_BY_S", 0.02)
        answers = (refused("slow_down"), MarketUnreachable("away"), ANSWER)
        assert await self.ask(*answers) == ANSWER

    @pytest.mark.parametrize(
        ("code", "error"), [("access_denied", DeviceRefused), ("expired_token", DeviceUnanswered)]
    )
    async def test_what_ends_it(self, code, error):
        with pytest.raises(error):
            await self.ask(refused(code))

    async def test_any_other_refusal_is_told_as_it_is(self):
        with pytest.raises(MarketRefused, match="too_many_attempts"):
            await self.ask(refused("too_many_attempts", 429))

    async def test_its_time_is_over(self):
        code = dataclasses.replace(CODE, lifetime_s=0.05, interval_s=0.02)
        with pytest.raises(DeviceUnanswered):
            await self.ask(*[refused("authorization_pending")] * 10, code=code)

    async def test_told_to_stop_it_leaves_at_once(self):
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, stop.set)
        code = dataclasses.replace(CODE, lifetime_s=60, interval_s=60)
        async with asyncio.timeout(5):
            assert await self.ask(code=code, stop=stop) is None


class Hasty(AccountClient):
    """Of a marketplace in this process, whose clock moves on with each poll."""

    def __init__(self, world, key) -> None:
        transport = httpx.ASGITransport(app=world.app)
        super().__init__("http://market", key, clock=world.clock.now_s, transport=transport)
        self._world = world

    async def begin_device(self, name, purpose):
        code = await super().begin_device(name, purpose)
        return dataclasses.replace(code, interval_s=0.01)

    async def ask_device(self, device_code):
        self._world.pass_time(5)
        return await super().ask_device(device_code)


class TestBindMachine:
    @pytest.fixture
    async def world(self, tmp_path):
        async with World(tmp_path / "market") as running:
            yield running

    @pytest.fixture
    async def client(self, world):
        async with Hasty(world, KeyPair.generate()) as client:
            yield client

    @pytest.fixture
    def home(self, tmp_path):
        return Home(tmp_path / "node")

    async def bind(self, client, home, screen=None, country="") -> str:
        said = []
        await bind_machine(client, home, screen, asyncio.Event(), said.append, country=country)
        return "\n".join(said)

    async def test_approved_it_earns_for_the_account_and_asks_no_more(self, world, client, home):
        buyer = await world.buyer()
        answers = []

        async def approve(code):
            body = {"user_code": code.user_code}
            path = "/v1/device/approve"
            answers.append(await world.http.post(path, json=body, headers=buyer.headers))

        screen = Screen(lambda code: tasks.append(asyncio.create_task(approve(code))))
        tasks = []
        said = await self.bind(client, home, screen)
        assert answers[0].status_code == 200
        assert "earns for the account 'somebody' from now on" in said
        assert await client.own_machine() == OwnMachine(buyer.account_id, "somebody")
        again = Screen()
        assert "earns for the account 'somebody'" in await self.bind(client, home, again)
        assert again.codes == []

    async def test_the_country_goes_to_the_page_and_nowhere_else(self, world, client, home):
        buyer = await world.buyer()
        assert await waits_for_owner(client, home)

        async def approve(code):
            body = {"user_code": code.user_code}
            await world.http.post("/v1/device/approve", json=body, headers=buyer.headers)

        tasks = []
        screen = Screen(lambda code: tasks.append(asyncio.create_task(approve(code))))
        said = await self.bind(client, home, screen, "DE")
        (code,) = screen.codes
        assert code.address_with_code == f"http://market/device#{code.user_code}&country=DE"
        assert "http://market/device#country=DE" in said
        assert not await waits_for_owner(client, home)
        assert "http://market/device#country=JP" in await self.bind(client, home, country="JP")
        recipient = await world.http.get("/v1/payouts/recipient", headers=buyer.headers)
        assert recipient.status_code == 409

    async def test_without_a_screen_it_only_says_how_it_stands(self, client, home):
        assert "its earnings wait" in await self.bind(client, home)

    async def test_unanswered_it_serves_all_the_same(self, client, home, monkeypatch):
        async def lapsed(device_code):
            raise refused("expired_token")

        monkeypatch.setattr(client, "ask_device", lapsed)
        assert "its earnings wait" in await self.bind(client, home, Screen())

    async def test_refused_it_does_not_go_on(self, world, client, home):
        buyer = await world.buyer()

        async def deny(code):
            body = {"user_code": code.user_code}
            await world.http.post("/v1/device/deny", json=body, headers=buyer.headers)

        tasks = []
        screen = Screen(lambda code: tasks.append(asyncio.create_task(deny(code))))
        with pytest.raises(DeviceRefused):
            await self.bind(client, home, screen)

    async def test_a_marketplace_with_another_key_is_not_asked(self, client, home):
        home.pin_market(client.url, KeyPair.generate().peer_id)
        with pytest.raises(ConfigInvalid, match="another key"):
            await self.bind(client, home, Screen())
