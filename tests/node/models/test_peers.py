"""Weights between nodes: a holder that gives only what it has verified, askers that check."""

import asyncio
import contextlib

import pytest

from node.engine.holdings import verify_span
from node.engine.store import build_manifest
from node.models.errors import NotHeld, SourceFailed, SourcesFailed
from node.models.peer_server import ASKERS_MAX, WeightServer, share_weights
from node.models.peer_source import PeerSource
from node.models.plan import shard_pieces
from node.models.progress import FetchProgress
from node.models.pull import PullOrder, pull_model
from node.models.roster import Patience, Roster
from node.models.shelf import SharedModel, Shelf
from node.models.split import split_model
from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from protocol.route import Span
from protocol.weights import (
    CHUNK_BYTES_MAX,
    PROTOCOL,
    ItemKind,
    ReplyStatus,
    WeightReply,
    WeightRequest,
)
from tests.node.models.checkpoints import LAYERS, NAME, make_model
from transport.errors import TransportError
from transport.quic.host import QuicHost
from transport.testing import FakeNetwork

HASTY = Patience(attempts_max=2, backoff_s=0.01)
SPAN = Span(1, 3)
WHOLE = Span(0, LAYERS)


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "holder")


@pytest.fixture
def manifest(model):
    return build_manifest(model, NAME)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "models" / NAME


@pytest.fixture
def network():
    return FakeNetwork(delay_s=0.001)


def holder(network, model, manifest, span=WHOLE, **options):
    """A host that shares a span."""
    host = network.host()
    shelf = Shelf()
    shelf.put(SharedModel.of_span(manifest, model, span))
    server = WeightServer(host, shelf, **options)
    server.start()
    return host, server


async def fetch(home, *sources, manifest_hash, span=SPAN, ends=False, events=None):
    events = events or FetchProgress()
    order = PullOrder(NAME, span, ends, manifest_hash)
    return await pull_model(order, home, Roster(sources, events, HASTY), events)


async def open_stream(network, host):
    asker = network.host()
    connection = await asker.connect(host.peer_id, host.addresses, timeout_s=1)
    return await connection.open_stream(PROTOCOL)


async def test_span_comes_from_a_peer_by_its_manifests_hash_alone(network, model, manifest, home):
    host, server = holder(network, model, manifest)
    source = PeerSource(network.host(), host.addresses)
    report = await fetch(home, source, manifest_hash=manifest.manifest_hash)
    assert report.manifest == manifest
    verify_span(manifest, home, SPAN, ends=False)
    assert server.shared_bytes >= manifest.size_bytes(SPAN)


async def test_whole_model_by_name_over_the_real_transport(model, manifest, home):
    holding = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    asking = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    try:
        share_weights(holding, manifest, model, WHOLE)
        source = PeerSource(asking, holding.addresses)
        # the ends were not verified by a provider of all layers, and are not given
        await fetch(home, source, manifest_hash=None, span=WHOLE)
        verify_span(manifest, home, WHOLE, ends=False)
        with pytest.raises(SourcesFailed, match="does not have"):
            await fetch(home, source, manifest_hash=None, span=WHOLE, ends=True)
    finally:
        await asking.close()
        await holding.close()


async def test_two_peers_with_half_a_model_each_make_a_whole(network, model, manifest, home):
    hosts = [holder(network, model, manifest, Span(k, k + 2))[0] for k in (0, 2)]
    sources = [PeerSource(network.host(), host.addresses) for host in hosts]
    events = FetchProgress()
    await fetch(home, *sources, manifest_hash=manifest.manifest_hash, span=WHOLE, events=events)
    verify_span(manifest, home, WHOLE, ends=False)
    assert set(events.received_bytes) == {source.name for source in sources}


async def test_what_was_pulled_from_a_peer_can_be_shared_on(
    network, model, manifest, home, tmp_path
):
    first, _ = holder(network, model, manifest)
    await fetch(home, PeerSource(network.host(), first.addresses), manifest_hash=None)
    second, _ = holder(network, home, manifest, Span(1, 2))
    third = tmp_path / "third" / NAME
    await fetch(third, PeerSource(network.host(), second.addresses), manifest_hash=None)
    verify_span(manifest, third, SPAN, ends=False)


async def test_split_shard_gives_its_tensors_but_no_header(
    network, model, manifest, home, tmp_path
):
    split_model(manifest, model, SPAN, False, tmp_path / "shard")
    shard, _ = holder(network, tmp_path / "shard", manifest, SPAN)
    whole, _ = holder(network, model, manifest, Span(0, 0))  # headers, and no tensor at all
    sources = [PeerSource(network.host(), host.addresses) for host in (shard, whole)]
    events = FetchProgress()
    await fetch(home, *sources, manifest_hash=None, events=events)
    verify_span(manifest, home, SPAN, ends=False)
    assert set(events.received_bytes) == {sources[0].name}


async def test_lying_peer_is_dropped_and_another_brings_it(
    network, model, manifest, home, tmp_path
):
    wrong = make_model(tmp_path / "liar", seed="other")
    liar, _ = holder(network, wrong, manifest)  # says it is this model; it is not
    honest, _ = holder(network, model, manifest)
    asker = network.host()
    sources = [PeerSource(asker, host.addresses) for host in (liar, honest)]
    await fetch(home, *sources, manifest_hash=manifest.manifest_hash)
    verify_span(manifest, home, SPAN, ends=False)


async def test_peer_that_does_not_share(network, manifest, home):
    source = PeerSource(network.host(), network.host().addresses)
    with pytest.raises(NotHeld, match="No source has the manifest"):
        await fetch(home, source, manifest_hash=manifest.manifest_hash)


async def test_peer_that_goes_away_in_the_middle_is_replaced(network, model, manifest, home):
    slow, _ = holder(network, model, manifest, bytes_per_s_max=200_000)
    other, _ = holder(network, model, manifest)
    sources = [PeerSource(network.host(), host.addresses) for host in (slow, other)]
    task = asyncio.create_task(fetch(home, *sources, manifest_hash=manifest.manifest_hash))
    await asyncio.sleep(0.05)
    await network.kill(slow.peer_id, silent=False)
    await task
    verify_span(manifest, home, SPAN, ends=False)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ItemKind.FILE, "../config.json"),
        (ItemKind.FILE, "piecework.journal"),
        (ItemKind.FILE, "node.key"),
        (ItemKind.HEADER, "config.json"),
        (ItemKind.HEADER, "../hub/model-00001-of-00003.safetensors"),
        (ItemKind.TENSOR, "model.norm.weight"),
        (ItemKind.TENSOR, "model.layers.0.mlp.down_proj.weight"),
        (ItemKind.TENSOR, "none"),
    ],
)
async def test_only_items_of_the_manifest_that_were_verified_are_given(
    network, model, manifest, kind, name
):
    (model / "node.key").write_bytes(b"secret")
    host, _ = holder(network, model, manifest, SPAN)
    stream = await open_stream(network, host)
    await stream.send(WeightRequest(kind, name, 0, 10**6, manifest.manifest_hash).encode())
    assert WeightReply.decode(await stream.receive()).status == ReplyStatus.NOT_HERE


async def test_ranges_are_cut_to_the_item(network, model, manifest):
    host, _ = holder(network, model, manifest)
    stream = await open_stream(network, host)
    (piece, *_) = [p for p in shard_pieces(manifest, SPAN, False) if p.size_bytes > 10_000]
    data = (model / piece.file).read_bytes()[piece.start : piece.end]
    for start, end in ((0, 10), (5, 2**40), (piece.size_bytes, 2**40)):
        request = WeightRequest(ItemKind.TENSOR, piece.name, start, end, manifest.manifest_hash)
        await stream.send(request.encode())
        reply = WeightReply.decode(await stream.receive())
        assert (reply.item_bytes, reply.start) == (piece.size_bytes, start)
        got = await stream.receive() if reply.end > reply.start else b""
        assert got == data[start:end]
    await stream.send(
        WeightRequest(ItemKind.TENSOR, piece.name, 10**9, 10**9, manifest.manifest_hash).encode()
    )
    assert WeightReply.decode(await stream.receive()).status == ReplyStatus.NOT_HERE


async def test_unknown_manifest(network, model, manifest):
    host, _ = holder(network, model, manifest)
    source = PeerSource(network.host(), host.addresses)
    with pytest.raises(NotHeld):
        await source.manifest(bytes(32), NAME)
    with pytest.raises(NotHeld):
        await source.manifest(None, "org/other")


async def test_garbage_ends_the_stream_and_not_the_server(network, model, manifest, home):
    host, _ = holder(network, model, manifest)
    for garbage in (b"", b"\xff" * 5000, b"\xa0"):
        stream = await open_stream(network, host)
        await stream.send(garbage)
        with pytest.raises(TransportError):
            await stream.receive()
    await fetch(home, PeerSource(network.host(), host.addresses), manifest_hash=None)


async def test_too_many_askers_are_told_busy(network, model, manifest):
    host, _ = holder(network, model, manifest)
    streams = [await open_stream(network, host) for _ in range(ASKERS_MAX)]
    request = WeightRequest(ItemKind.FILE, "config.json", 0, 10**6, manifest.manifest_hash)
    for stream in streams:
        await stream.send(request.encode())
        assert WeightReply.decode(await stream.receive()).status == ReplyStatus.OK
    source = PeerSource(network.host(), host.addresses)
    with pytest.raises(SourceFailed, match="busy"):
        await source.read_file(manifest.manifest_hash, "config.json", 10**6)
    streams[0].finish()
    await asyncio.sleep(0.05)
    assert await source.read_file(manifest.manifest_hash, "config.json", 10**6)


async def test_rate_holds_for_all_askers_together(network, tmp_path, home):
    model = make_model(tmp_path / "large", size=400_000)
    manifest = build_manifest(model, NAME)
    rate = 4_000_000
    host, server = holder(network, model, manifest, bytes_per_s_max=rate)
    source = PeerSource(network.host(), host.addresses)
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    await fetch(home, source, manifest_hash=None, span=Span(0, LAYERS))
    burst = rate  # a second's worth may go at once
    assert loop.time() - started_s >= (server.shared_bytes - burst) / rate * 0.9


class HostilePeer:
    """Answers every request as it was told to."""

    def __init__(self, network, *frames):
        self.host = network.host()
        self.host.set_handler(PROTOCOL, self.serve)
        self.frames = frames

    async def serve(self, stream):
        with contextlib.suppress(TransportError):
            while await stream.receive() is not None:
                for frame in self.frames:
                    await stream.send(frame)


@pytest.mark.parametrize(
    "frames",
    [
        (b"nonsense",),
        (WeightReply(ReplyStatus.OK, 100, 0, 100).encode(), b"x" * 101),
        (WeightReply(ReplyStatus.OK, 100, 0, 100).encode(), b""),
        (WeightReply(ReplyStatus.OK, 2**43, 0, 10).encode(), b"x" * 10),
        (WeightReply(ReplyStatus.OK, 100, 5, 100).encode(), b"x" * 95),
        (WeightReply(ReplyStatus.OK, 2**30, 0, 2**20).encode(), b"x" * (CHUNK_BYTES_MAX + 1)),
    ],
    ids=["no reply", "too much", "empty chunk", "too large", "another range", "huge chunk"],
)
async def test_hostile_answers_are_failures_of_that_peer(network, frames):
    peer = HostilePeer(network, *frames)
    source = PeerSource(network.host(), peer.host.addresses)
    with pytest.raises(SourceFailed):
        await source.read_file(bytes(32), "config.json", 2**20)


def test_request_without_a_hash_is_for_a_manifest_only():
    with pytest.raises(RemoteProtocolError):
        WeightRequest(ItemKind.TENSOR, "x", 0, 1)
