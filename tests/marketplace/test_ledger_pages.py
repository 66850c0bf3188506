"""The public log over HTTP: tiles, proofs, witnesses, balance trees; and an audit of it all."""

import asyncio

import httpx
import pytest
from sqlalchemy import text

from ledger.audit import audit
from ledger.balance_tree import BalanceNode, verify_balance
from ledger.checkpoint import open_checkpoint
from ledger.cosignature import cosign, cosignatures_of
from ledger.invariants import check
from ledger.leaf import BalancesLeaf, decode_leaf
from ledger.log_check import check_log
from ledger.proof_file import LogProof, verify_proof
from ledger.tiles import decode_entries
from ledger.tree import leaf_hash
from node.cli.ledger.balance import checked_balances
from node.cli.ledger.source import open_market
from node.market_client import MarketClient
from protocol.identity import KeyPair
from tests.marketplace.world import manifest, three_providers
from tests.postgres import both_engines

ORIGIN = "piecework/local"


class Paid:
    """A pool in which one answer was paid for."""

    def __init__(self, world):
        self.world = world
        self.model, self.providers = manifest(), three_providers()

    async def begin(self):
        self.buyer = await self.world.buyer(dollars=1)
        await self.world.register(self.model)
        await self.world.publish(self.model, *self.providers)
        return self

    async def answer(self):
        paid = await self.world.lease(self.buyer, (await self.world.quote(self.buyer)).json())
        for lease, provider in zip(paid.leases, self.providers, strict=True):
            await self.world.hand_in(provider, paid.receipt(lease, provider))
        await self.world.close(self.buyer, paid)
        for job in ("settle", "publish"):
            self.world.worker.do(job)
        return paid


@pytest.fixture
async def paid(world):
    return await Paid(world).begin()


@pytest.fixture
async def client(world):
    transport = httpx.ASGITransport(app=world.app)
    key = KeyPair.generate()
    async with MarketClient(
        "http://market", key, clock=lambda: world.clock.now, transport=transport
    ) as client:
        yield client


def market_key(world):
    return world.market.key.peer_id


class TestTiles:
    async def test_entries_hash_to_the_tile_above_them(self, world, paid):
        await paid.answer()
        signed = open_checkpoint(
            (await world.http.get("/v1/ledger/checkpoint")).text, market_key(world)
        )
        width = signed.size
        tile = await world.http.get(f"/v1/ledger/tile/0/000.p/{width}")
        entries = await world.http.get(f"/v1/ledger/tile/entries/000.p/{width}")
        assert tile.headers["content-type"] == "application/octet-stream"
        assert "max-age" in tile.headers["cache-control"]
        hashes = [leaf_hash(entry) for entry in decode_entries(entries.content)]
        assert b"".join(hashes) == tile.content

    async def test_what_is_not_there_is_404(self, world, paid):
        await paid.answer()
        for path in ("0/000", "0/000.p/200", "entries/001", "1/000.p/1", "0/x1/1", "9/000", "0/0"):
            answer = await world.http.get(f"/v1/ledger/tile/{path}")
            assert answer.status_code == 404, path
            assert answer.json()["error"]["code"] == "not_in_log"

    async def test_the_checkpoint_is_never_cached(self, world):
        answer = await world.http.get("/v1/ledger/checkpoint")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"


class TestCheckpoints:
    async def test_an_older_one_with_what_the_book_said_then(self, world, paid):
        await paid.answer()
        first = (await world.http.get("/v1/ledger/checkpoints")).json()
        await paid.answer()
        newest = (await world.http.get("/v1/ledger/checkpoints")).json()
        again = await world.http.get(f"/v1/ledger/checkpoints?size_max={newest['size'] - 1}")
        assert again.json() == first
        assert newest["totals"]["charged_nanos"] == 2 * first["totals"]["charged_nanos"]

    async def test_none_is_cosigned_yet(self, world):
        answer = await world.http.get("/v1/ledger/checkpoints?cosigned=true")
        assert answer.status_code == 404


class TestCosignatures:
    async def post(self, world, key, size, line):
        body = {"size": size, "line": line}
        return await world.node(key, "POST", "/v1/ledger/cosignatures", body=body)

    async def test_a_nodes_line_stands_in_the_note(self, world, paid):
        await paid.answer()
        note = (await world.http.get("/v1/ledger/checkpoint")).text
        signed = open_checkpoint(note, market_key(world))
        witness, other = KeyPair.generate(), KeyPair.generate()
        line = cosign(signed.text(), witness, world.clock.now)
        assert (await self.post(world, witness, signed.size, line)).status_code == 204
        assert (await self.post(world, witness, signed.size, line)).status_code == 204
        assert (await self.post(world, other, signed.size, line)).status_code == 400
        note = (await world.http.get("/v1/ledger/checkpoint")).text
        assert [found.witness for found in cosignatures_of(note)] == [witness.peer_id]
        cosigned = (await world.http.get("/v1/ledger/checkpoints?cosigned=true")).json()
        assert cosigned["note"] == note

    async def test_another_size_or_a_time_to_come_is_refused(self, world, paid):
        await paid.answer()
        note = (await world.http.get("/v1/ledger/checkpoint")).text
        signed = open_checkpoint(note, market_key(world))
        witness = KeyPair.generate()
        line = cosign(signed.text(), witness, world.clock.now)
        assert (await self.post(world, witness, signed.size + 1, line)).status_code == 400
        late = cosign(signed.text(), witness, world.clock.now + 10_000)
        assert (await self.post(world, witness, signed.size, late)).status_code == 400

    async def test_strangers_cannot_crowd_out_providers(self, world, paid):
        await paid.answer()
        note = (await world.http.get("/v1/ledger/checkpoint")).text
        signed = open_checkpoint(note, market_key(world))
        for _ in range(32):
            key = KeyPair.generate()
            line = cosign(signed.text(), key, world.clock.now)
            assert (await self.post(world, key, signed.size, line)).status_code == 204
        stranger, provider = KeyPair.generate(), paid.providers[0].key
        line = cosign(signed.text(), stranger, world.clock.now)
        refused = await self.post(world, stranger, signed.size, line)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "cosignatures_full")
        line = cosign(signed.text(), provider, world.clock.now)
        assert (await self.post(world, provider, signed.size, line)).status_code == 204


class TestProofs:
    async def test_a_receipt_by_lease_and_by_session(self, world, paid):
        session = await paid.answer()
        lease = session.leases[0]
        by_lease = (
            await world.http.get(f"/v1/ledger/receipts?lease={lease.lease_id.hex()}")
        ).json()["receipts"]
        by_session = (
            await world.http.get(f"/v1/ledger/receipts?session={session.session_id.hex()}")
        ).json()["receipts"]
        assert len(by_session) == 3
        assert by_lease[0] in by_session
        encoded = (await world.http.get(f"/v1/ledger/proofs/{by_lease[0]['leaf_index']}")).text
        proof = LogProof.decode(encoded)
        checkpoint, _ = verify_proof(proof, market_key(world), origin=ORIGIN)
        assert proof.index == by_lease[0]["leaf_index"] < checkpoint.size

    async def test_unknown_and_not_yet_signed(self, world, paid):
        answer = await world.http.get(f"/v1/ledger/receipts?lease={'0' * 32}")
        assert answer.json()["error"]["code"] == "not_in_log"
        assert (await world.http.get("/v1/ledger/receipts")).status_code == 400
        assert (await world.http.get("/v1/ledger/proofs/99")).status_code == 404
        session = await world.lease(paid.buyer, (await world.quote(paid.buyer)).json())
        await world.hand_in(
            paid.providers[0], session.receipt(session.leases[0], paid.providers[0])
        )
        early = await world.http.get("/v1/ledger/proofs/0")
        assert early.json()["error"]["code"] == "not_yet_signed"
        assert early.headers["retry-after"] == "5"


@both_engines
class TestBalances:
    async def test_every_owner_is_counted(self, world, paid):
        await paid.answer()
        assert world.worker.do("balances") == 1
        assert world.worker.do("balances") == 0, "its turn was taken"
        world.worker.do("publish")
        owed = (await world.http.get("/v1/ledger/balances")).json()
        encoded = (await world.http.get(f"/v1/ledger/proofs/{owed['leaf_index']}")).text
        proof = LogProof.decode(encoded)
        verify_proof(proof, market_key(world))
        entry = decode_leaf(proof.entry)
        assert isinstance(entry, BalancesLeaf)
        totals = (await world.http.get("/v1/ledger/totals")).json()["accounts"]
        posted = {code: t["credits_posted"] - t["debits_posted"] for code, t in totals.items()}
        assert entry.sum_nanos == posted["buyer_cash"] + posted["provider_earned"]

        said = (
            await world.http.get("/v1/account/balance-proof", headers=paid.buyer.headers)
        ).json()
        (mine,) = checked_balances(said, entry, 0).accounts
        assert mine.sum_nanos == posted["buyer_cash"]
        earned = 0
        for provider in paid.providers:
            said = (await world.node(provider.key, "GET", "/v1/provider/balance-proof")).json()
            (theirs,) = checked_balances(said, entry, 0).accounts
            verify_balance(theirs, BalanceNode(entry.root, entry.sum_nanos))
            earned += theirs.sum_nanos
        assert earned == posted["provider_earned"]

    async def test_before_the_first(self, world):
        assert (await world.http.get("/v1/ledger/balances")).status_code == 404

    async def test_only_the_newest_trees_are_kept(self, world, paid):
        for _ in range(5):
            assert world.worker.do("balances") == 1
            world.pass_time(3600)
        with world.market.database.reading() as session:
            count = session.execute(
                text("SELECT COUNT(DISTINCT snapshot_id) FROM ledger_balance_node")
            ).scalar_one()
        assert count == 3


@both_engines
class TestAudit:
    async def test_by_tiles_from_the_start_and_from_the_midst(self, world, paid, client):
        await paid.answer()
        first = open_checkpoint(await client.checkpoint(), market_key(world)).size
        await paid.answer()
        world.worker.do("balances")
        world.worker.do("publish")
        for since in (0, first, first + 1):
            source = await open_market(client, market_key(world), since)
            report = await asyncio.to_thread(
                lambda source=source: audit(
                    source.entries, source.header.note, market_key(world),
                    beginning=source.header.beginning,
                )
            )  # fmt: skip
            assert report.ok, report.problems
            assert report.since == (first if since else 0)
            assert report.leaves == report.size - report.since
            assert report.settlements == (1 if since else 2)
            assert (report.unjudged.receipts, report.unjudged.settlements) == (0, 0)

    async def test_the_whole_log_checks_out(self, world, paid):
        await paid.answer()
        world.worker.round()
        with world.market.database.reading() as session:
            assert check(session) == []
            assert check_log(session, market_key(world), ORIGIN) == []
