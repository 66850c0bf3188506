"""Repairs over real sockets leave nothing behind: no session, stream, task or frame of one."""

import asyncio
import collections
import gc

from node.engine.async_engine import LocalEngine
from node.engine.fake import load
from node.engine.runner import EngineRunner
from node.serve.admission import OwnAdmission, ServedShard
from node.serve.server import SessionServer
from protocol.identity import KeyPair
from protocol.route import Span
from tests.flows.ring import Provider, Ring, fake_model, spans
from tests.flows.test_repair import Story, once
from transport.quic.host import QuicHost

KINDS = ("LiveSession", "RouteSession", "HopLine", "HopDriver", "HopState", "Task", "traceback")


async def provide(model, span, head) -> Provider:
    key = KeyPair.generate()
    spec = model.spec(span, embeds=False, has_head=False)
    engine = LocalEngine(lambda: load(spec))
    runner, host = EngineRunner(engine), await QuicHost.start(key, listen_host="127.0.0.1")
    manifest = model.manifest
    shard = ServedShard(
        key.peer_id, manifest.manifest_hash, span.start, span.end, manifest.hidden_size
    )
    server = SessionServer(
        host, runner, OwnAdmission(shard, [head.peer_id]), collector=None, backend="fake"
    )
    server.start()
    return Provider(key, span, host, engine, runner, server, None)


async def count() -> dict[str, int]:
    await asyncio.sleep(0.3)
    gc.collect()
    seen = collections.Counter(type(found).__name__ for found in gc.get_objects())
    return {kind: seen[kind] for kind in KINDS}


async def test_repaired_answers_leave_no_object_behind(tmp_path):
    model = fake_model(tmp_path)
    head = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    spec = model.spec(Span(0, 0), embeds=True, has_head=True)
    ends = EngineRunner(LocalEngine(lambda: load(spec)))
    ring = Ring(tmp_path, model, None, head, ends, None)
    ring.providers += [await provide(model, span, head) for span in spans(3)]
    ring.spares += [await provide(model, spans(3)[1], head)]

    async def reset(story):
        story.session._session._hops.lines[1]._stream.reset(9)

    async def answers(number):
        for _ in range(number):
            story = Story(ring, spares=0)
            story.router.spares = {ring.providers[1].span: list(ring.spares)}
            await story.tell(max_tokens=8, happens=once(3, reset))
            assert story.session.repairs == 1

    try:
        await answers(5)
        before = await count()
        await answers(15)
        assert await count() == before
    finally:
        for provider in (*ring.providers, *ring.spares):
            await provider.host.close()
            await provider.runner.stop()
        await head.close()
        await ends.stop()
