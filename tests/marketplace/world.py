"""A marketplace in one process, with a clock that is moved by hand, and the people who use it."""

import base64
import dataclasses
import hashlib
import json
import secrets
from dataclasses import dataclass, field

import httpx

from marketplace.app import create_app
from marketplace.config import MarketConfig
from protocol.envelope import open_envelope, seal
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.model import ModelManifest
from protocol.money import Rates, Work, amount_nanos
from protocol.offer import Offer
from protocol.receipt import CosignedReceipt, Receipt, cosign
from protocol.request import sign_request
from protocol.route import Span
from tests.ledger.world import broken_digests

DOLLAR = 1_000_000_000
RATES = Rates(2_000_000, 6_000_000, 1_000)


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000

    def now_s(self) -> int:
        return self.now


def manifest(name="tiny", *, layers=12, resale_allowed=True, context_tokens=4096) -> ModelManifest:
    return ModelManifest(
        name=name,
        family="llama",
        layers=layers,
        hidden_size=64,
        vocabulary_size=1000,
        context_tokens=context_tokens,
        dtype="bf16",
        licence="apache-2.0" if resale_allowed else "research-only",
        resale_allowed=resale_allowed,
        config_sha256=hashlib.sha256(name.encode()).digest(),
        tokenizer_sha256=bytes(32),
        tensors=(),
    )


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Buyer:
    account_id: str
    api_key: str
    key_id: str

    @property
    def headers(self):
        return {"authorization": f"Bearer {self.api_key}"}


@dataclass
class Provider:
    """A node that sells a span."""

    span: Span
    rates: Rates = RATES
    key: KeyPair = field(default_factory=KeyPair.generate)
    sequence: int = 0
    changes: dict = field(default_factory=dict)

    @property
    def peer(self) -> str:
        return str(self.key.peer_id)

    def offer(self, world, model: ModelManifest, **changes) -> Offer:
        self.sequence += 1
        offer = Offer(
            provider=self.key.peer_id,
            sequence=self.sequence,
            addresses=("/ip4/192.0.2.1/udp/4001/quic-v1",),
            model=model.name,
            manifest_hash=model.manifest_hash,
            span=self.span,
            backend="fake",
            compute_dtype="fp32",
            rates=self.rates,
            sessions_max=4,
            kv_tokens=10_000,
            issued_at_s=world.clock.now,
            expires_at_s=world.clock.now + 120,
        )
        return dataclasses.replace(offer, **{**self.changes, **changes})

    def body(self, world, model, **changes) -> dict:
        return {"offer": encoded(seal(self.offer(world, model, **changes), self.key).encode())}


@dataclass
class PaidSession:
    """A head's side of one paid session."""

    session_id: bytes
    payer: KeyPair
    answer: dict
    request: dict
    market: object

    @property
    def leases(self) -> list[Lease]:
        envelopes = [base64.b64decode(text) for text in self.answer["leases"]]
        return [open_envelope(Lease, data, signer=self.market) for data in envelopes]

    def granted(self, answer: dict) -> dict[int, Lease]:
        """The leases of an answer to a replacement, by hop index."""
        return {
            item["hop_index"]: open_envelope(
                Lease, base64.b64decode(item["lease"]), signer=self.market
            )
            for item in answer["leases"]
        }

    def receipt(
        self, lease, provider, *, prompt=10, output=5, sequence=1, final=True, epoch=0, steps=None
    ) -> bytes:
        """The co-signed receipt for so many tokens through one hop."""
        tokens = prompt + output
        row_bytes = lease.wire_dtype.row_bytes(lease.hidden_size)
        layers = len(lease.span)
        work = Work(prompt * layers, output * layers, tokens * row_bytes, tokens * row_bytes)
        receipt = Receipt(
            lease_id=lease.lease_id,
            sequence=sequence,
            epoch=epoch,
            steps=sequence if steps is None else steps,
            tokens=tokens,
            work=work,
            amount_nanos=amount_nanos(work, lease.rates),
            link_in_hash=bytes([lease.hop_index]) * 32,
            link_out_hash=bytes([lease.hop_index + 1]) * 32,
            final=final,
        )
        cosigned: CosignedReceipt = cosign(seal(receipt, self.payer).encode(), provider.key)
        return cosigned.encode()


class World:
    """One marketplace and an HTTP client for it."""

    def __init__(self, home, **settings) -> None:
        self.clock = HandClock()
        self.config = MarketConfig(home=home, **settings)
        self.app = create_app(self.config, clock=self.clock, own_rounds=False)
        self.head = KeyPair.generate()

    async def __aenter__(self):
        self._lifespan = self.app.router.lifespan_context(self.app)
        await self._lifespan.__aenter__()
        transport = httpx.ASGITransport(app=self.app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://market")
        return self

    async def __aexit__(self, *error):
        with self.market.database.reading() as session:
            # whatever a test did through the marketplace has left every row with its digest
            assert broken_digests(session) == []
        await self.http.aclose()
        await self._lifespan.__aexit__(*error)

    @property
    def market(self):
        return self.app.state.market

    @property
    def worker(self):
        return self.app.state.worker

    def pass_time(self, seconds) -> None:
        self.clock.now += seconds

    def signed(self, key, method, path, body=b"") -> dict:
        return sign_request(key, method, path, body, now_s=self.clock.now)

    async def node(self, key, method, path, *, body=None, content=None) -> httpx.Response:
        """A request signed by a node."""
        data = (
            content if content is not None else b"" if body is None else json.dumps(body).encode()
        )
        headers = self.signed(key, method, path, data)
        if body is not None:
            headers["content-type"] = "application/json"
        return await self.http.request(method, path, content=data, headers=headers)

    async def buyer(self, *, dollars=0, nanos=0) -> Buyer:
        answer = await self.http.post("/v1/accounts", json={"name": "somebody"})
        assert answer.status_code == 201, answer.text
        made = answer.json()
        buyer = Buyer(made["account_id"], made["api_key"], made["key_id"])
        if amount := dollars * DOLLAR + nanos:
            await self.top_up(buyer, amount)
        return buyer

    async def top_up(self, buyer, amount_nanos) -> str:
        topup_id = secrets.token_hex(16)
        body = {"amount_nanos": amount_nanos, "topup_id": topup_id}
        answer = await self.http.post("/v1/topups", json=body, headers=buyer.headers)
        assert answer.status_code == 200, answer.text
        paid = await self.http.post(answer.json()["checkout_url"])
        assert paid.json() == {"status": "paid"}
        return topup_id

    async def balance(self, buyer) -> dict:
        answer = await self.http.get("/v1/account", headers=buyer.headers)
        return answer.json()["balance"]

    async def register(self, model: ModelManifest) -> None:
        path = f"/v1/manifests/{model.manifest_hash.hex()}"
        answer = await self.node(KeyPair.generate(), "PUT", path, content=model.encode())
        assert answer.status_code == 204, answer.text

    async def publish(self, model, *providers) -> None:
        for provider in providers:
            body = provider.body(self, model)
            answer = await self.node(provider.key, "PUT", "/v1/offers", body=body)
            assert answer.status_code == 200, answer.text

    async def quote(self, buyer, *, model="tiny", **more) -> httpx.Response:
        body = {"model": model, "prompt_tokens": 100, "max_tokens": 50, "sealed": True, **more}
        return await self.http.post("/v1/quotes", json=body, headers=buyer.headers)

    async def lease(self, buyer, quote: dict) -> PaidSession:
        session = self.session_for(quote)
        answer = await self.http.post("/v1/leases", json=session.request, headers=buyer.headers)
        assert answer.status_code == 200, answer.text
        session.answer = answer.json()
        return session

    async def replace(self, buyer, session, **asked) -> httpx.Response:
        """Another hop in the place of hop 1, after 120 rows of 150, unless asked otherwise."""
        body = {"epoch": 1, "lost": [1], "rows": 120, "remaining_tokens": 30, **asked}
        path = f"/v1/sessions/{session.session_id.hex()}/replacements"
        return await self.http.post(path, json=body, headers=buyer.headers)

    def session_for(self, quote: dict) -> PaidSession:
        session_id, payer = secrets.token_bytes(16), KeyPair.generate()
        request = {
            "quote_id": quote["quote_id"],
            "session_id": session_id.hex(),
            "payer_key": payer.peer_id.public_key.hex(),
            "head": str(self.head.peer_id),
        }
        return PaidSession(session_id, payer, {}, request, self.market.key.peer_id)

    async def hand_in(self, provider, *receipts: bytes) -> list[dict]:
        body = {"receipts": [encoded(receipt) for receipt in receipts]}
        answer = await self.node(provider.key, "POST", "/v1/receipts", body=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    async def close(self, buyer, session) -> None:
        path = f"/v1/sessions/{session.session_id.hex()}/close"
        answer = await self.http.post(path, headers=buyer.headers)
        assert answer.status_code == 202, answer.text

    async def session(self, buyer, session) -> dict:
        path = f"/v1/sessions/{session.session_id.hex()}"
        answer = await self.http.get(path, headers=buyer.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


def three_providers() -> list[Provider]:
    return [Provider(Span(0, 4)), Provider(Span(4, 8)), Provider(Span(8, 12))]


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code, after checking that the body has the one shape."""
    error = answer.json()["error"]
    assert set(error) - {"details"} == {"code", "message", "hint"}
    assert "Traceback" not in answer.text
    return answer.status_code, error["code"]
