"""Write the golden vectors of the vocabulary: `python -m tests.vectors.make`.

Run it only when the wire is changed on purpose: a vector that moves is a new version of the wire.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from node.engine.wire import Rows, decode, encode
from protocol.envelope import Record, seal
from protocol.frame import encode_frame
from protocol.lease import Lease
from protocol.money import amount_nanos, with_fee_nanos
from protocol.receipt import cosign
from protocol.record import encode_canonical, encode_fields
from protocol.request import sign_request
from protocol.tensor import LINK_HASH_START, WireDtype, extend_link_hash, payload_hash
from tests.protocol.frames import FRAMES
from tests.protocol.samples import (
    DATAGRAM_KEY,
    DATAGRAMS,
    HEAD,
    LEASE,
    MANIFEST,
    MARKET,
    NOW_S,
    PAYER,
    PROVIDER,
    RATES,
    RECEIPT,
    RECORDS,
    RELAY_MESSAGES,
    WEIGHT_MESSAGES,
    WORK,
)

FOLDER = Path(__file__).parent


def identities() -> dict[str, Any]:
    keys = {"market": MARKET, "provider": PROVIDER, "head": HEAD, "payer": PAYER}
    return {
        name: {
            "seed": key.seed.hex(),
            "public_key": key.peer_id.public_key.hex(),
            "peer_id": str(key.peer_id),
            "signature_of_hello": key.sign(b"hello").hex(),
        }
        for name, key in keys.items()
    }


def records() -> dict[str, Any]:
    return {type(record).__name__: _sealed(record) for record in RECORDS}


def _sealed(record: Record) -> dict[str, str]:
    """All are signed by the provider's key, so that one key verifies every line."""
    envelope = seal(record, PROVIDER)
    return {
        "domain": envelope.domain,
        "payload": envelope.payload.hex(),
        "signature": envelope.signature.hex(),
        "envelope": envelope.encode().hex(),
        "digest": envelope.digest.hex(),
    }


def settlement() -> dict[str, Any]:
    """A lease, a payer's receipt under it, and the hop's countersignature."""
    receipt = seal(RECEIPT, PAYER).encode()
    return {
        "lease": seal(LEASE, MARKET).encode().hex(),
        "lease_domain": Lease.DOMAIN,
        "receipt": receipt.hex(),
        "cosigned": cosign(receipt, PROVIDER).encode().hex(),
        "amount_nanos": amount_nanos(WORK, RATES),
        "with_fee_nanos": with_fee_nanos(amount_nanos(WORK, RATES), LEASE.fee_basis_points),
    }


def manifest() -> dict[str, Any]:
    return {
        "encoded": encode_canonical(encode_fields(MANIFEST)).hex(),
        "manifest_hash": MANIFEST.manifest_hash.hex(),
    }


def links() -> dict[str, Any]:
    """The rolling hash of a link after each of three payloads."""
    hashes, link_hash = [], LINK_HASH_START
    for payload in (b"", b"one", b"two" * 100):
        link_hash = extend_link_hash(link_hash, payload_hash(payload))
        hashes.append(link_hash.hex())
    return {"payloads": ["", b"one".hex(), (b"two" * 100).hex()], "hashes": hashes}


def frames() -> dict[str, str]:
    return {name: b"".join(encode_frame(frame)).hex() for name, frame in FRAMES.items()}


def wire() -> list[dict[str, Any]]:
    """Rows as float32 bytes, and what each wire dtype makes of them, there and back."""
    random = np.random.default_rng(7)
    ordinary = random.standard_normal((2, 48)).astype(np.float32)
    outliers = random.standard_normal((1, 96)).astype(np.float32)
    outliers[:, [7, 70]] += np.array([40, -25], np.float32)
    extremes = np.resize(np.array([1e30, -3e-9, 0, 1e-40, 2.5, -0.5], np.float32), (1, 65))
    cases = {"ordinary": ordinary, "outliers": outliers, "extremes": extremes}
    return [{"name": name, **_travel(rows)} for name, rows in cases.items()]


def _travel(rows: Rows) -> dict[str, Any]:
    hidden_size = rows.shape[1]
    made: dict[str, Any] = {"hidden_size": hidden_size, "rows": rows.tobytes().hex()}
    for dtype in WireDtype:
        array = encode(rows, dtype)
        made[dtype] = array.tobytes().hex()
        made[f"{dtype} decoded"] = decode(array, dtype, hidden_size).tobytes().hex()
    return made


def weights() -> dict[str, str]:
    return {name: message.encode().hex() for name, message in WEIGHT_MESSAGES.items()}


def relay() -> dict[str, str]:
    return {name: message.encode().hex() for name, message in RELAY_MESSAGES.items()}


def datagrams() -> dict[str, str]:
    return {"key": DATAGRAM_KEY.hex(), **{name: data.hex() for name, data in DATAGRAMS.items()}}


def requests() -> dict[str, Any]:
    """One signed request; its nonce was drawn when the vector was first made and is kept."""
    path = FOLDER / "requests.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    headers = sign_request(PROVIDER, "POST", "/v1/offers?x=1", b"body", now_s=NOW_S)
    return {"method": "POST", "target": "/v1/offers?x=1", "body": "body", "headers": headers}


def main() -> None:
    for make in (
        identities, records, settlement, manifest, links, frames, wire, requests, weights, relay,
        datagrams,
    ):  # fmt: skip
        path = FOLDER / f"{make.__name__}.json"
        path.write_text(json.dumps(make(), indent=2) + "\n")


if __name__ == "__main__":
    main()
