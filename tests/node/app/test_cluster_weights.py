"""A model that one machine of the house has: the others take it from there."""

import asyncio

import pytest

from node.app.cluster_weights import ClusterWeights
from node.cluster.gossip import Gossip
from node.config import EngineOptions, Home, UpConfig
from node.engine.base import ComputeDtype
from node.engine.errors import ModelNotFound, ShardMismatch
from node.engine.holdings import verify_span
from node.models.errors import SourceFailed
from node.models.peer_source import PeerSource
from protocol.identity import KeyPair
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.node.cluster.house import NAME as HOME
from tests.node.cluster.house import record_of
from tests.node.models.checkpoints import NAME, make_model
from transport.lan.discovery import Sighting
from transport.testing import FakeNetwork

MEETING_S = 0.5


def config_of(home, model=NAME, **changes):
    fields = {
        "home": home, "model": model, "cluster_name": "home", "cluster_key": "",
        "machine_name": home.name, "memory_bytes": 2**30,
        "engine": EngineOptions("fake", "cpu", ComputeDtype.FP32, 1),
        "wire_dtype": WireDtype.FP32, "kv_tokens": 1024, "listen_host": "127.0.0.1",
        "listen_port": 0, "peers": (), "api_host": "127.0.0.1", "api_port": 0,
        "offline": True, "spread": False,
    }  # fmt: skip
    return UpConfig(**fields | changes)


class Members:
    """Gossip between machines with homes of their own, over a fake network."""

    def __init__(self, directory):
        self.directory = directory
        self.network = FakeNetwork()
        self.gossips = []
        self.told = []

    def add(self, name, **changes):
        key = KeyPair(name.encode().ljust(32, b"."))
        host = self.network.host(key)
        record = record_of(
            key, name, model=NAME, manifest_hash=None, room=None,
            joined_at_ms=1 + len(self.gossips),
        )  # fmt: skip
        gossip = Gossip(host, key, HOME, record)
        gossip.start()
        for other in self.gossips:
            gossip.found(Sighting(other._host.peer_id, other._host.addresses, ""))
            other.found(Sighting(host.peer_id, host.addresses, ""))
        self.gossips.append(gossip)
        weights = ClusterWeights(
            config_of(self.directory / name, **changes), host, gossip, self.told.append,
            meeting_s=MEETING_S,
        )  # fmt: skip
        weights.start()
        return host, gossip, weights

    async def close(self):
        for gossip in self.gossips:
            await gossip.close()
            await gossip._host.close()


@pytest.fixture
async def members(tmp_path):
    members = Members(tmp_path)
    yield members
    await members.close()


async def holder(members):
    """A machine that has the whole model and says so."""
    home = Home(members.directory / "holder")
    make_model(home.models_path / NAME)
    host, gossip, weights = members.add("holder")
    model = await weights.find()
    gossip.update(manifest_hash=model.manifest.manifest_hash)
    return host, model


async def test_one_without_the_model_gets_its_span_from_one_with_it(members):
    _, whole = await holder(members)
    _, _, weights = members.add("guest")
    model = await weights.find()
    assert model.manifest == whole.manifest
    with pytest.raises(ShardMismatch):
        verify_span(model.manifest, model.directory, Span(1, 3), ends=False)
    await weights.fetch(model, Span(1, 3))
    verify_span(model.manifest, model.directory, Span(1, 3), ends=False)
    with pytest.raises(ShardMismatch):
        verify_span(model.manifest, model.directory, Span(0, 4), ends=False)


async def test_strangers_are_given_nothing(members):
    host, whole = await holder(members)
    stranger = members.network.host()
    source = PeerSource(stranger, host.addresses)
    with pytest.raises(SourceFailed):
        await source.manifest(whole.manifest.manifest_hash, NAME)


async def test_offline_and_alone_it_says_what_to_do(members):
    _, _, weights = members.add("guest")
    with pytest.raises(ModelNotFound, match="any other of the cluster"):
        await weights.find()


async def test_two_without_the_model_do_not_both_go_and_fetch_it(members):
    """The second waits for the first, that is fetching, and takes it from there."""
    first = members.add("first")
    second = members.add("second")
    first[1].update(state="fetching")
    finding = asyncio.create_task(second[2].find())
    await asyncio.sleep(4 * MEETING_S)
    assert not finding.done(), "it would have asked the hub by now"
    make_model(Home(members.directory / "first").models_path / NAME)
    model = await first[2].find()
    first[1].update(manifest_hash=model.manifest.manifest_hash)
    assert (await finding).manifest == model.manifest


async def test_a_path_that_does_not_exist_is_not_looked_for(members):
    _, _, weights = members.add("guest", model="./nowhere")
    with pytest.raises(ModelNotFound):
        await weights.find()
