"""Whole clusters over a fake network, with a clock that jumps: no test here sleeps."""

import asyncio

import pytest

from node.cluster.gossip import HANDSHAKES_MAX
from node.cluster.handshake import PROTOCOL, derive_secret, offer_proof
from protocol.record import encode_canonical
from tests.node.cluster.house import NAME, House, open_house, room
from transport.errors import StreamReset
from transport.testing import run_virtual

HALF = {"room": room(4)}


def virtual(test):
    """Run a test in a loop whose sleeps jump."""

    def run():
        run_virtual(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def start_all(house: House, *names: str, **fields) -> None:
    for name in names:
        await house.start(name, **fields)


@virtual
async def test_machines_that_find_one_another_all_know_all():
    async with open_house() as house:
        await start_all(house, "a", "b", "c", "d", "e")
        await asyncio.sleep(1)
        assert {frozenset(m.members) for m in house.machines.values()} == {frozenset("abcde")}


@virtual
async def test_one_who_knows_one_machine_is_introduced_to_the_others():
    async with open_house() as house:
        await start_all(house, "a", "b", "c")
        late = await house.start("late", finds=False)
        late.gossip.found(house.machines["a"].sighting)
        await asyncio.sleep(5)
        assert late.members == {"a", "b", "c", "late"}
        assert house.machines["c"].members == {"a", "b", "c", "late"}


@virtual
async def test_all_agree_on_the_fewest_machines_that_hold_the_model():
    async with open_house() as house:
        await start_all(house, "a", "b", "c", **HALF)
        await asyncio.sleep(4)
        assert house.spans == {"a": "0:4", "b": "4:8"}
        assert [house.machines[name].spans for name in "abc"] == [
            [house.machines["a"].span], [house.machines["b"].span], [],
        ]  # fmt: skip


@virtual
async def test_a_model_that_fits_stays_on_the_fastest_machine():
    async with open_house() as house:
        await house.start("slow", token_layers_per_s=10)
        await house.start("fast", token_layers_per_s=90)
        await asyncio.sleep(4)
        assert house.spans == {"fast": "0:8"}


@virtual
async def test_it_is_spread_over_all_when_one_owner_asks():
    async with open_house() as house:
        await start_all(house, "a", "b", "c")
        await house.start("d", spread=True)
        await asyncio.sleep(4)
        assert house.spans == {"a": "0:2", "b": "2:4", "c": "4:6", "d": "6:8"}


@virtual
async def test_nothing_is_placed_before_the_machines_have_settled():
    async with open_house() as house:
        for name in "abc":
            await house.start(name, room=room(3))
            await asyncio.sleep(1)
            assert house.plans == {None}
        await asyncio.sleep(3)
        assert house.spans == {"a": "0:3", "b": "3:6", "c": "6:8"}


@virtual
async def test_a_late_joiner_moves_nothing():
    async with open_house() as house:
        await start_all(house, "a", "b", **HALF)
        await asyncio.sleep(4)
        before = house.plans
        await house.start("huge", token_layers_per_s=1000)
        await asyncio.sleep(20)
        assert house.plans == before
        assert [len(m.spans) for m in house.machines.values()] == [1, 1, 0]


@virtual
async def test_a_model_that_did_not_fit_is_placed_when_enough_have_come():
    async with open_house() as house:
        await house.start("a", **HALF)
        await asyncio.sleep(10)
        assert house.plans == {None}
        await house.start("b", **HALF)
        await asyncio.sleep(4)
        assert house.spans == {"a": "0:4", "b": "4:8"}


@virtual
async def test_a_killed_machine_is_noticed_within_seconds_and_an_idle_one_takes_its_place():
    async with open_house() as house:
        await start_all(house, "a", "b", "c", **HALF)
        await asyncio.sleep(4)
        await house.kill("a")
        await asyncio.sleep(6)
        assert house.machines["b"].members == {"b", "c"}
        await asyncio.sleep(2)
        assert house.spans == {"c": "0:4", "b": "4:8"}
        assert len(house.machines["b"].spans) == 1, "b has not moved"


@virtual
async def test_connections_to_a_silent_machine_are_closed_at_once():
    async with open_house() as house:
        await start_all(house, "a", "b")
        await asyncio.sleep(2)
        await house.kill("b")
        await asyncio.sleep(6)
        assert house.machines["a"].host.connections() == ()


@virtual
async def test_a_machine_that_says_goodbye_is_gone_at_once():
    async with open_house() as house:
        await start_all(house, "a", "b")
        await asyncio.sleep(2)
        await house.leave("b")
        await asyncio.sleep(0.1)
        assert house.machines["a"].members == {"a"}
        assert "has left" in house.machines["a"].told[-1]


@virtual
async def test_one_who_announces_leaving_is_relieved_before_it_goes():
    async with open_house() as house:
        await start_all(house, "a", "b")
        await asyncio.sleep(4)
        assert house.spans == {"a": "0:8"}
        house.machines["a"].gossip.update(room=None)
        await asyncio.sleep(4)
        assert house.spans == {"b": "0:8"}


@virtual
async def test_two_halves_go_on_alone_and_agree_again_when_they_meet():
    async with open_house() as house:
        await start_all(house, "a", "b", "c", "d", **HALF)
        await asyncio.sleep(4)
        house.cut("ab", "cd")
        await asyncio.sleep(12)
        assert house.machines["a"].members == {"a", "b"}
        assert str(house.machines["c"].span) == "0:4"
        house.heal("ab", "cd")
        await asyncio.sleep(40)
        assert {frozenset(m.members) for m in house.machines.values()} == {frozenset("abcd")}
        assert len(house.plans) == 1


@virtual
async def test_a_restarted_machine_takes_its_own_place():
    async with open_house() as house:
        await start_all(house, "a", "b")
        await asyncio.sleep(2)
        a, b = (house.machines[name].peer_id for name in "ab")
        await house.kill("b")
        house.network.heal(a, b)  # the line is whole: it was the program that ended
        await house.start("b")
        await asyncio.sleep(4)
        assert house.machines["a"].members == {"a", "b"}
        assert house.machines["b"].members == {"a", "b"}


@pytest.mark.parametrize(("name", "key"), [("elsewhere", ""), ("home", "k")], ids=["name", "key"])
def test_who_has_another_name_or_key_is_refused_and_learns_nothing(name, key):
    secret = derive_secret(name, key)

    async def run():
        async with open_house() as house:
            await start_all(house, "a", "b")
            stranger = await house.start("stranger", secret=secret)
            await asyncio.sleep(10)
            assert stranger.members == {"stranger"}
            assert not stranger.gossip.membership.introduced()
            assert house.machines["a"].members == {"a", "b"}
            assert "its name or its key differs" in house.machines["a"].told[0]
            assert len([line for line in stranger.told if "differs" in line]) == 2

    run_virtual(run())


@virtual
async def test_each_pair_keeps_one_stream():
    async with open_house() as house:
        await start_all(house, "a", "b", "c", "d")
        await asyncio.sleep(3)
        frames = house.network.frame_count
        await asyncio.sleep(100)
        per_link_s = (house.network.frame_count - frames) / 100 / 12
        assert per_link_s < 1.6, "a pulse a second, and a renewal in five"


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xff", encode_canonical({}), encode_canonical([1]), encode_canonical([b""] * 65),
     encode_canonical([b"no record"])],
    ids=["empty", "no CBOR", "a map", "numbers", "too many", "no record"],
)  # fmt: skip
def test_a_member_that_sends_nonsense_is_one_no_more(frame):
    async def run():
        async with open_house() as house:
            a = await house.start("a")
            host = house.network.host()
            connection = await host.connect(a.peer_id, a.host.addresses, timeout_s=5)
            stream = await connection.open_stream(PROTOCOL)
            await offer_proof(stream, NAME, host.peer_id, 5)
            await stream.send(frame)
            await stream.receive()  # a's own word
            with pytest.raises(StreamReset):
                await stream.receive()
            assert a.members == {"a"}
            await host.close()

    run_virtual(run())


@virtual
async def test_strangers_that_only_knock_are_bounded():
    async with open_house() as house:
        a = await house.start("a")
        host = house.network.host()
        connection = await host.connect(a.peer_id, a.host.addresses, timeout_s=5)
        streams = [await connection.open_stream(PROTOCOL) for _ in range(HANDSHAKES_MAX + 1)]
        await asyncio.sleep(0.1)
        with pytest.raises(StreamReset):
            await streams[-1].receive()
        await asyncio.sleep(6)
        with pytest.raises(StreamReset):
            await streams[0].receive()
        await host.close()
