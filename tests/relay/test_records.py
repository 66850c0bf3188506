import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest

from protocol.envelope import Envelope, open_envelope, seal
from protocol.errors import (
    RecordExpired,
    RemoteProtocolError,
    SignatureInvalid,
    VerificationError,
    WrongSigner,
)
from protocol.identity import KeyPair, PeerId
from protocol.limits import RECORD_CLOCK_SKEW_S
from protocol.rendezvous_messages import (
    DISCOVER_RECORD_BYTES_MAX,
    Discover,
    Register,
)
from relay.errors import RequestRefused
from relay.records import Records
from relay.resources import RendezvousLimits
from tests.protocol.samples import ANNOUNCEMENT, PROVIDER

NOW_S = 1_800_000_000
KEYS = [KeyPair(bytes([index]) * 32) for index in range(1, 30)]
KEY = KEYS[0]


@dataclass(frozen=True, slots=True)
class Hello:
    """A kind of record that no relay knows."""

    DOMAIN: ClassVar[str] = "piecework/test/v1"

    peer_id: PeerId
    text: str
    issued_at_s: int = NOW_S
    expires_at_s: int = NOW_S + 60


@dataclass(frozen=True, slots=True)
class Timeless:
    DOMAIN: ClassVar[str] = "piecework/test/v1"

    text: str


def hello(key=KEY, name="home", *, signer=None, **fields):
    record = Hello(key.peer_id, fields.pop("text", "hello"), **fields)
    return Register(name, seal(record, signer or key).encode())


def texts(found):
    return [open_envelope(Hello, record).text for record in found.records]


@pytest.fixture
def records():
    return Records(RendezvousLimits(records_max=20, records_per_peer_max=3))


def test_record_is_found_as_it_was_signed(records):
    assert records.register(KEY.peer_id, hello(), NOW_S) == NOW_S + 60
    (found,) = records.discover(Discover("home", 10), NOW_S).records
    assert open_envelope(Hello, found, signer=KEY.peer_id).text == "hello"
    assert records.discover(Discover("elsewhere", 10), NOW_S).records == ()


def test_records_of_every_kind_are_kept():
    record = dataclasses.replace(ANNOUNCEMENT, issued_at_s=NOW_S, expires_at_s=NOW_S + 60)
    records = Records(RendezvousLimits())
    records.register(PROVIDER.peer_id, Register("home", seal(record, PROVIDER).encode()), NOW_S)
    assert len(records) == 1


def test_newest_issued_wins(records):
    for second, text in ((5, "new"), (4, "old"), (5, "same second")):
        register = hello(text=text, issued_at_s=NOW_S + second)
        if text == "old":
            with pytest.raises(RecordExpired):
                records.register(KEY.peer_id, register, NOW_S)
        else:
            records.register(KEY.peer_id, register, NOW_S)
    assert texts(records.discover(Discover("home", 10), NOW_S)) == ["same second"]
    assert len(records) == 1


def test_only_ones_own_records_can_be_registered(records):
    with pytest.raises(WrongSigner):
        records.register(KEYS[1].peer_id, hello(KEY), NOW_S)
    with pytest.raises(WrongSigner):
        records.register(KEYS[1].peer_id, hello(KEY, signer=KEYS[1]), NOW_S)


def test_bad_signature_is_refused(records):
    envelope = Envelope.decode(hello().record)
    forged = dataclasses.replace(envelope, signature=bytes(64))
    with pytest.raises(SignatureInvalid):
        records.register(KEY.peer_id, Register("home", forged.encode()), NOW_S)
    other_domain = dataclasses.replace(envelope, domain="piecework/offer/v1")
    with pytest.raises(SignatureInvalid):
        records.register(KEY.peer_id, Register("home", other_domain.encode()), NOW_S)


@pytest.mark.parametrize(
    "fields",
    [
        {"expires_at_s": NOW_S},
        {"issued_at_s": NOW_S + RECORD_CLOCK_SKEW_S + 1},
        {"expires_at_s": NOW_S + RendezvousLimits().record_lifetime_s + RECORD_CLOCK_SKEW_S + 1},
    ],
    ids=["expired", "not begun", "for too long"],
)
def test_record_that_does_not_hold_is_refused(records, fields):
    with pytest.raises((VerificationError, RequestRefused)):
        records.register(KEY.peer_id, hello(**fields), NOW_S)
    assert len(records) == 0


@pytest.mark.parametrize("record", [b"x", b"\xa0", seal(Timeless("x"), KEY).encode()], ids=repr)
def test_what_is_no_timed_record_is_refused(records, record):
    with pytest.raises(RemoteProtocolError):
        records.register(KEY.peer_id, Register("home", record), NOW_S)


def test_expired_record_is_not_given_and_then_forgotten(records):
    records.register(KEY.peer_id, hello(), NOW_S)
    assert records.discover(Discover("home", 10), NOW_S + 60).records == ()
    assert len(records) == 1
    records.expire(NOW_S + 60)
    assert len(records) == 0


def test_records_of_a_peer_are_limited_but_expired_ones_make_room(records):
    for name in "abc":
        records.register(KEY.peer_id, hello(name=name), NOW_S)
    with pytest.raises(RequestRefused, match=r"rendezvous\.records_per_peer_max"):
        records.register(KEY.peer_id, hello(name="d"), NOW_S)
    late = NOW_S + 60
    records.register(KEY.peer_id, hello(name="d", issued_at_s=late, expires_at_s=late + 9), late)
    assert len(records) == 1


def test_records_in_all_are_limited(records):
    for key in KEYS[:20]:
        records.register(key.peer_id, hello(key), NOW_S)
    with pytest.raises(RequestRefused, match=r"rendezvous\.records_max"):
        records.register(KEYS[20].peer_id, hello(KEYS[20]), NOW_S)
    records.register(KEY.peer_id, hello(KEY, text="renewed"), NOW_S)


def test_unregistered_record_is_gone(records):
    records.register(KEY.peer_id, hello(), NOW_S)
    records.unregister(KEYS[1].peer_id, "home")
    assert len(records) == 1
    for _ in range(2):
        records.unregister(KEY.peer_id, "home")
        assert len(records) == 0


def test_one_peers_record_can_be_asked_for(records):
    for key in KEYS[:3]:
        records.register(key.peer_id, hello(key, text=key.peer_id.short), NOW_S)
    found = records.discover(Discover("home", 10, peer=KEYS[1].peer_id), NOW_S)
    assert texts(found) == [KEYS[1].peer_id.short]
    assert found.next is None
    assert not records.discover(Discover("home", 10, peer=KEYS[9].peer_id), NOW_S).records


@pytest.mark.parametrize("limit", [1, 3, 7, 20])
def test_pages_together_are_all_records_once(records, limit):
    for key in KEYS[:20]:
        records.register(key.peer_id, hello(key, text=key.peer_id.short), NOW_S)
    seen, after = [], None
    while True:
        page = records.discover(Discover("home", limit, after=after), NOW_S)
        assert len(page.records) <= limit
        seen += texts(page)
        if page.next is None:
            break
        after = page.next
    assert seen == [peer.short for peer in sorted(key.peer_id for key in KEYS[:20])]


def test_page_of_large_records_is_bounded_in_bytes(records):
    for key in KEYS[:20]:
        records.register(key.peer_id, hello(key, text="x" * 3800), NOW_S)
    page = records.discover(Discover("home", 64), NOW_S)
    assert sum(map(len, page.records)) <= DISCOVER_RECORD_BYTES_MAX
    rest = records.discover(Discover("home", 64, after=page.next), NOW_S)
    assert len(page.records) + len(rest.records) == 20
    assert rest.next is None
