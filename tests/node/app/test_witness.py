"""A node as a witness: it signs what grew, remembers it on disk, and keeps a fork as a file."""

import json
import re

import httpx
import pytest

from ledger.checkpoint import Checkpoint, sign_checkpoint, split_note
from ledger.cosignature import verify_cosignature, witness_name
from ledger.errors import AuditFailed
from ledger.fork import ForkProof, verify_fork
from ledger.tiles import parse_tile_path
from ledger.tree import consistency_proof, leaf_hash, subtree_of, tree_root
from node.app.witness import ForkSeen, LogWitness
from node.config import Home
from node.market_client import MarketClient
from protocol.identity import KeyPair

LOG = KeyPair(b"l" * 32)
NODE = KeyPair(b"n" * 32)
NOW_S = 1_800_000_000
HONEST = [leaf_hash(f"entry {index}".encode()) for index in range(300)]
FORKED = [leaf_hash(f"entry {'x' if index == 3 else index}".encode()) for index in range(300)]


class FakeLog:
    """A marketplace's log over HTTP; it may change its history, and give bad proofs."""

    def __init__(self):
        self.leaves, self.size = HONEST, 5
        self.lies_about_proofs = False
        self.lines = []
        self.status = 204

    @property
    def note(self):
        root = tree_root(self.size, subtree_of(self.leaves))
        return sign_checkpoint(Checkpoint("piecework/test", self.size, root), LOG)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path, query = request.url.path.removeprefix("/v1/ledger/"), request.url.params
        if path == "checkpoint":
            return httpx.Response(200, text=self.note)
        if path == "consistency":
            sizes = int(query["first"]), int(query["second"])
            hashes = consistency_proof(*sizes, subtree_of(self.leaves))
            if self.lies_about_proofs:
                hashes = [bytes(32) for _ in hashes]
            return httpx.Response(200, json={"hashes": [item.hex() for item in hashes]})
        if path == "cosignatures":
            self.lines.append(json.loads(request.content))
            error = {"code": "cosignatures_full", "message": "full", "hint": ""}
            return httpx.Response(self.status, json={"error": error} if self.status > 400 else None)
        name = parse_tile_path(path)
        subtree = subtree_of(self.leaves)
        first = name.index * 256
        hashes = [subtree(8 * name.level, first + place) for place in range(name.width)]
        return httpx.Response(200, content=b"".join(hashes))


@pytest.fixture
def log():
    return FakeLog()


@pytest.fixture
async def client(log):
    transport = httpx.MockTransport(log.answer)
    async with MarketClient("http://market", NODE, transport=transport) as client:
        yield client


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def witness(home, client):
    return LogWitness(home, NODE, client, LOG.peer_id, clock=lambda: NOW_S)


async def test_what_grew_is_cosigned_and_handed_in(home, client, log):
    for size in (5, 9, 300):
        log.size = size
        seen = await witness(home, client).look()  # another object: only the disk remembers
        assert seen.size == size
        assert seen.posted
        text, _ = split_note(log.note)
        verify_cosignature(text, log.lines[-1]["line"], witness_name(NODE.peer_id), NODE.peer_id)
        assert log.lines[-1]["size"] == size
    assert witness(home, client).state().size == 300


async def test_the_same_checkpoint_is_handed_in_once_by_one_watcher(home, client, log):
    watcher = witness(home, client)
    await watcher.look()
    await watcher.look()
    assert len(log.lines) == 1


async def test_enough_witnesses_is_no_trouble(home, client, log):
    log.status = 409
    assert not (await witness(home, client).look()).posted


@pytest.mark.parametrize("lies_about_proofs", [False, True])
@pytest.mark.parametrize(("old", "new"), [(5, 5), (5, 300), (8, 300), (256, 257)])
async def test_a_fork_is_refused_and_kept_as_a_file(home, client, log, old, new, lies_about_proofs):
    log.size = old
    await witness(home, client).look()
    log.leaves, log.size, log.lies_about_proofs = FORKED, new, lies_about_proofs
    before = witness(home, client).state()
    with pytest.raises(ForkSeen) as caught:
        await witness(home, client).look()
    assert len(log.lines) == 1, "nothing was signed"
    assert witness(home, client).state() == before
    text = caught.value.path.read_text()
    assert len(text.encode()) < 5000
    older, newer = verify_fork(ForkProof.decode(text), LOG.peer_id)
    assert (older.size, newer.size) == (old, new)
    assert str(caught.value.path) in str(caught.value)


async def test_a_lying_proof_of_an_honest_log_is_no_fork(home, client, log):
    await witness(home, client).look()
    log.size, log.lies_about_proofs = 20, True
    with pytest.raises(AuditFailed):
        await witness(home, client).look()
    assert len(log.lines) == 1


async def test_a_log_that_goes_back_is_not_cosigned(home, client, log):
    await witness(home, client).look()
    log.size = 4
    with pytest.raises(AuditFailed, match="before"):
        await witness(home, client).look()


async def test_a_damaged_memory_is_told_not_forgotten(home, client, log):
    await witness(home, client).look()
    (path,) = (home.path / "witness").iterdir()
    path.write_text(re.sub("5\n", "4\n", path.read_text(), count=1))
    with pytest.raises(AuditFailed):
        await witness(home, client).look()


async def test_watching_ends_at_a_fork_and_says_where_the_proof_is(home, client, log):
    await witness(home, client).look()
    log.leaves = FORKED
    told = []
    await witness(home, client).watch(told.append, every_s=0)
    assert len(told) == 1
    assert "fork-" in told[0]
