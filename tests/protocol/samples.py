"""One fixed example of every record, and hypothesis strategies for random ones.

The fixed ones are what `tests/vectors/*.json` was made from, so a changed field shows there.
"""

import hashlib

from hypothesis import strategies as st

from protocol.announcement import Announcement
from protocol.datagram import Bind, Bound, Probe, Probed, Reflect, Reflected, forwarded
from protocol.identity import KeyPair, PeerId
from protocol.lease import ID_BYTES, Lease
from protocol.model import ENDS, ModelManifest, TensorEntry
from protocol.money import RATE_MAX, Rates, Work
from protocol.offer import OFFER_LIFETIME_MAX_S, Offer
from protocol.receipt import Receipt
from protocol.relay_messages import (
    ForwardGrant,
    ForwardRequest,
    RefusalCode,
    Refused,
    Where,
)
from protocol.rendezvous_messages import (
    Discover,
    Discovered,
    Register,
    Registered,
    Unregister,
)
from protocol.route import Span
from protocol.tensor import WireDtype
from protocol.weights import ItemKind, ReplyStatus, WeightReply, WeightRequest

NOW_S = 1_800_000_000
MARKET = KeyPair(b"m" * 32)
PROVIDER = KeyPair(b"p" * 32)
NEIGHBOUR = KeyPair(b"n" * 32)
HEAD = KeyPair(b"h" * 32)
PAYER = KeyPair(b"$" * 32)
ADDRESS = f"/ip4/203.0.113.7/udp/4001/quic-v1/p2p/{PROVIDER.peer_id}"


def digest(text: str) -> bytes:
    """A 32-byte hash that a reader can reproduce."""
    return hashlib.sha256(text.encode()).digest()


RATES = Rates(
    prefill_nanos_per_million_token_layers=1_000_000,
    decode_nanos_per_million_token_layers=4_000_000,
    activation_nanos_per_mib=2_500,
)
WORK = Work(prefill_token_layers=120, decode_token_layers=48, bytes_in=43_008, bytes_out=43_008)

ANNOUNCEMENT = Announcement(
    peer_id=PROVIDER.peer_id,
    addresses=(ADDRESS,),
    model="piecework-tiny",
    manifest_hash=digest("manifest"),
    layers=12,
    span=Span(4, 8),
    embeds=False,
    has_head=False,
    backend="torch",
    kv_tokens=65_536,
    issued_at_s=NOW_S,
    expires_at_s=NOW_S + 60,
)
OFFER = Offer(
    provider=PROVIDER.peer_id,
    sequence=7,
    addresses=(ADDRESS,),
    model="piecework-tiny",
    manifest_hash=digest("manifest"),
    span=Span(4, 8),
    backend="torch",
    compute_dtype="fp32",
    rates=RATES,
    sessions_max=16,
    kv_tokens=65_536,
    issued_at_s=NOW_S,
    expires_at_s=NOW_S + 60,
)
LEASE = Lease(
    lease_id=bytes(range(16)),
    session_id=bytes(range(16, 32)),
    hold_id=bytes(range(32, 48)),
    hop_index=1,
    hop_count=3,
    payer_key=PAYER.peer_id.public_key,
    provider=PROVIDER.peer_id,
    head=HEAD.peer_id,
    previous=NEIGHBOUR.peer_id,
    next=HEAD.peer_id,
    manifest_hash=digest("manifest"),
    span=Span(4, 8),
    hidden_size=256,
    wire_dtype=WireDtype.FP32,
    rates=RATES,
    work_max=Work(4_000, 4_000, 2_000_000, 2_000_000),
    amount_nanos_max=50_000,
    tokens_max=2_000,
    window_tokens=32,
    credit_windows=2,
    fee_basis_points=500,
    issued_at_s=NOW_S,
    expires_at_s=NOW_S + 120,
    settle_by_s=NOW_S + 900,
)
RECEIPT = Receipt(
    lease_id=LEASE.lease_id,
    sequence=2,
    epoch=1,
    steps=13,
    tokens=42,
    work=WORK,
    amount_nanos=LEASE.amount_for(WORK),
    link_in_hash=digest("in"),
    link_out_hash=digest("out"),
    final=False,
)
MANIFEST = ModelManifest(
    name="piecework-tiny",
    family="llama",
    layers=2,
    hidden_size=64,
    vocabulary_size=512,
    context_tokens=1_024,
    dtype="fp32",
    licence="Apache-2.0",
    resale_allowed=True,
    config_sha256=digest("config"),
    tokenizer_sha256=digest("tokenizer"),
    tensors=(
        TensorEntry("model.embed_tokens.weight", ENDS, "model.safetensors", 0, 100, digest("e")),
        TensorEntry(
            "model.layers.0.mlp.up_proj.weight", 0, "model.safetensors", 100, 300, digest("0")
        ),
        TensorEntry(
            "model.layers.1.mlp.up_proj.weight", 1, "model.safetensors", 300, 700, digest("1")
        ),
    ),
)

RECORDS = (ANNOUNCEMENT, OFFER, LEASE, RECEIPT)

WEIGHT_MESSAGES = {
    "tensor": WeightRequest(
        ItemKind.TENSOR, "model.layers.1.mlp.up_proj.weight", 100, 400, digest("manifest")
    ),
    "manifest": WeightRequest(ItemKind.MANIFEST, "piecework-tiny", 0, 67_108_864),
    "ok": WeightReply(ReplyStatus.OK, 400, 100, 400),
    "busy": WeightReply.refusal(ReplyStatus.BUSY),
}

RELAY_MESSAGES = {
    "forward_request": ForwardRequest(NEIGHBOUR.peer_id),
    "forward_grant": ForwardGrant(
        circuit=b"circuit0",
        secret_ours=digest("ours"),
        secret_theirs=digest("theirs"),
        host="203.0.113.9",
        ports=(4001, 4002),
        expires_at_s=NOW_S + 7200,
    ),
    "forward_grant_here": ForwardGrant(
        b"circuit0", digest("ours"), digest("theirs"), host="", ports=(4001,), expires_at_s=0
    ),
    "where": Where("203.0.113.9", (4001, 4002)),
    "refused": Refused("The limit circuits_per_peer_max is reached.", RefusalCode(201)),
    "register": Register("piecework/home", b"an envelope"),
    "unregister": Unregister("piecework/home"),
    "discover": Discover("piecework/home", 64, after=NEIGHBOUR.peer_id),
    "discover_peer": Discover("piecework/home", 1, peer=PROVIDER.peer_id),
    "registered": Registered(NOW_S + 600),
    "discovered": Discovered((b"an envelope", b"another"), next=PROVIDER.peer_id),
}

DATAGRAM_KEY = digest("datagrams")
DATAGRAMS = {
    "reflect": Reflect(b"transact").encode(),
    "reflect_other_port": Reflect(b"transact", from_other_port=True).encode(),
    "reflected": Reflected(b"transact", "203.0.113.9", 4001, has_other_port=True).encode(),
    "reflected_ipv6": Reflected(b"transact", "2001:db8::9", 4002, from_other_port=True).encode(),
    "bind": Bind(b"circuit0", 0, 1).encode(DATAGRAM_KEY),
    "bound_not_yet": Bound(b"circuit0", 0, 1, True, False, b"a cookie").encode(DATAGRAM_KEY),
    "bind_with_cookie": Bind(b"circuit0", 0, 2, b"a cookie").encode(DATAGRAM_KEY),
    "bound": Bound(b"circuit0", 0, 2, True, cookie=b"a cookie").encode(DATAGRAM_KEY),
    "forwarded": forwarded(b"circuit0", b"\x40 a QUIC packet"),
    "probe": Probe(b"the link", b"\x80nonce..", 48).encode(DATAGRAM_KEY),
    "probed": Probed(b"the link", b"\x80nonce..", 48).encode(DATAGRAM_KEY),
}
"""As they are on the wire; those with a MAC are sealed with `DATAGRAM_KEY`."""

# --- strategies

seeds = st.binary(min_size=32, max_size=32)
peer_ids = st.builds(PeerId, seeds)
ids = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)
hashes = st.binary(min_size=32, max_size=32)
# counts that stay inside what one session can do, so that amounts are of every size
counts = st.integers(0, 2**40)
rate_values = st.integers(0, RATE_MAX)
rates = st.builds(Rates, rate_values, rate_values, rate_values)
works = st.builds(Work, counts, counts, counts, counts)
spans = st.tuples(st.integers(0, 100), st.integers(1, 100)).map(lambda s: Span(s[0], sum(s)))
texts = st.text(max_size=40)
seconds = st.integers(0, 2**40)

announcements = st.builds(
    Announcement,
    peer_id=peer_ids,
    addresses=st.lists(texts, max_size=4).map(tuple),
    model=texts,
    manifest_hash=hashes,
    layers=st.integers(1, 1_024),
    span=spans,
    embeds=st.booleans(),
    has_head=st.booleans(),
    backend=texts,
    kv_tokens=counts,
    issued_at_s=seconds,
    expires_at_s=seconds,
)
offers = st.builds(
    lambda issued_at_s, lifetime_s, **fields: Offer(
        issued_at_s=issued_at_s, expires_at_s=issued_at_s + lifetime_s, **fields
    ),
    issued_at_s=seconds,
    lifetime_s=st.integers(1, OFFER_LIFETIME_MAX_S),
    provider=peer_ids,
    sequence=counts,
    addresses=st.lists(texts, min_size=1, max_size=4).map(tuple),
    model=texts,
    manifest_hash=hashes,
    span=spans,
    backend=texts,
    compute_dtype=texts,
    rates=rates,
    sessions_max=st.integers(1, 1_000),
    kv_tokens=st.integers(1, 2**40),
)
receipts = st.builds(
    Receipt,
    lease_id=ids,
    sequence=st.integers(1, 2**40),
    epoch=counts,
    steps=counts,
    tokens=counts,
    work=works,
    amount_nanos=counts,
    link_in_hash=hashes,
    link_out_hash=hashes,
    final=st.booleans(),
)
