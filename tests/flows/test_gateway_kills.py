"""The parts of the kill laboratory that concern real gateways: who kills them, and who judges."""

import dataclasses
import http.client
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.ledger_kills.failpoints import Failpoints
from benchmarks.ledger_kills.moments import GATEWAY_POINTS, Gateway, Moments
from benchmarks.ledger_kills.oracle_gateways import prove_gateways
from benchmarks.ledger_kills.passage import Passage
from benchmarks.ledger_kills.place import Place, PoolOptions
from benchmarks.ledger_kills.report import Proof
from protocol.route import Span
from tests.marketplace.world import DOLLAR, Provider, World, manifest

linux = pytest.mark.skipif(sys.platform != "linux", reason="its processes die with their parent")
KILLED_S = 10.0


class FixedChoice:
    """The first of what there is, and the middle."""

    def choice(self, items):
        return items[0]

    def random(self):
        return 0.0


@pytest.fixture
def gateway(tmp_path):
    """Some process in a gateway's place."""
    made = Gateway("gateway-0", "gateway", ["sleep", "60"], tmp_path, {})
    made.number, made.place = 0, Place(tmp_path)
    yield made
    made.stop(1.0)


@linux
def test_a_gateway_dies_where_it_was_told_to_and_at_no_other_moment(gateway):
    moments = Moments(gateway.place)
    moments.reach(0, "gateway.lease.after")  # nobody is there yet
    gateway.start("gateway.lease.after:2")
    moments.reach(0, "gateway.lease.after")
    moments.reach(0, "gateway.close.after")
    assert gateway.code is None
    moments.reach(0, "gateway.lease.after")
    give_up_at = time.monotonic() + KILLED_S
    while gateway.code is None:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    assert gateway.code == -9


@linux
def test_each_life_counts_anew_and_a_number_that_is_anothers_is_left_alone(gateway):
    moments = Moments(gateway.place)
    gateway.start("gateway.opened:2")
    moments.reach(0, "gateway.opened")
    gateway.kill()
    gateway.start("gateway.opened:2")
    moments.reach(0, "gateway.opened")
    assert gateway.code is None
    path = gateway.place.gateway_life(0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"born": 1.0}))
    for _ in range(2):
        moments.reach(0, "gateway.opened")
    assert gateway.code is None


@linux
def test_a_gateway_has_begun_when_this_life_has_opened_a_session(gateway):
    moments = Moments(gateway.place)
    gateway.start()
    assert not gateway.has_begun
    moments.begun(0)
    assert gateway.has_begun
    gateway.kill()
    gateway.start()
    assert not gateway.has_begun


def test_the_points_of_a_gateway_are_tried_in_gateways_alone():
    points = Failpoints(FixedChoice())
    assert points.choose("gateway").partition(":")[0] in GATEWAY_POINTS
    assert not points.choose("market").startswith("gateway.")


class _Market(BaseHTTPRequestHandler):
    """Says what came; dies under a request to /v1/dies."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/dies":
            self.close_connection = True
            return
        said = json.dumps([self.path, self.headers["authorization"], body.decode()]).encode()
        self.send_response(402)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


class _Moments:
    def __init__(self):
        self.reached = []
        self.kills_at = ""

    def reach(self, gateway, name):
        self.reached.append((gateway, name))
        return name == self.kills_at


@pytest.fixture
def market():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Market) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def dead_market():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Market) as server:
        return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def passage(market):
    """Of gateway 7, to two marketplaces of which one is dead."""
    with Passage(0, (dead_market(), market), _Moments(), 7) as made:
        made.start()
        yield made
        made.shutdown()


def post(passage, path):
    connection = http.client.HTTPConnection("127.0.0.1", passage.server_address[1], timeout=10)
    try:
        connection.request("POST", path, b"{}", {"authorization": "Bearer key"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_request_reaches_the_marketplace_that_lives_as_it_was_sent(passage):
    for _ in range(2):
        assert post(passage, "/v1/leases") == (402, ["/v1/leases", "Bearer key", "{}"])
    assert post(passage, "/v1/receipts")[0] == 402
    assert post(passage, "/v1/sessions/ab/close")[0] == 402
    lease = [(7, "gateway.lease.before"), (7, "gateway.lease.after")]
    close = [(7, "gateway.close.before"), (7, "gateway.close.after")]
    assert passage.moments.reached == lease * 2 + close


def test_what_became_of_a_request_is_not_known_when_the_marketplace_died_under_it(passage):
    with pytest.raises(http.client.RemoteDisconnected):
        post(passage, "/v1/dies")


def test_a_gateway_that_died_before_a_request_has_not_made_it(passage):
    passage.moments.kills_at = "gateway.lease.before"
    with pytest.raises(http.client.RemoteDisconnected):
        post(passage, "/v1/leases")
    assert passage.moments.reached == [(7, "gateway.lease.before")]


@pytest.fixture
async def paid(tmp_path):
    """A marketplace where one answer of a real gateway is paid, and the witnesses of it."""
    place = Place(tmp_path)
    async with World(tmp_path / "market") as world:
        buyer = await world.buyer(dollars=1)
        model, providers = manifest(), [Provider(Span(0, 6)), Provider(Span(6, 12))]
        await world.register(model)
        await world.publish(model, *providers)
        session = await world.lease(buyer, (await world.quote(buyer)).json())
        for lease, provider in zip(session.leases, providers, strict=True):
            await world.hand_in(provider, session.receipt(lease, provider, prompt=10, output=5))
        await world.close(buyer, session)
        world.worker.round()
        told = await world.session(buyer, session)
        pool = PoolOptions(
            seed=1, model="tiny", account_id=buyer.account_id, api_key=buyer.api_key,
            paid_in_nanos=DOLLAR, ports=(), passages=(), nodes=(), window_tokens=4,
            credit_windows=2,
        )  # fmt: skip
        place.pool_path.write_text(json.dumps(dataclasses.asdict(pool)))
        name = session.session_id.hex()
        answer = {"k": "told", "q": 0, "a": 0, "g": 0, "s": name, "n": 6, "u": [10, 0, 6]}
        hops = [
            {"k": "hop", "s": name, "h": n, "n": 15, "a": hop["earned_nanos"], "o": "done"}
            for n, hop in enumerate(told["hops"])
        ]
        yield world, place, answer, hops


def judge(world, place, answers, hops) -> Proof:
    question = {"k": "question", "q": 0, "ok": True, "refused": {}, "last": True}
    for path, lines in ((place.asker_journal, [*answers, question]), (place.hops_journal, hops)):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    proof = Proof()
    with world.market.database.reading() as session:
        prove_gateways(session, place, proof)
    return proof


async def test_an_answer_that_is_paid_for_to_the_last_row_is_right(paid):
    world, place, answer, hops = paid
    proof = judge(world, place, [answer], hops)
    assert proof.holds, proof.faults
    assert proof.answers.whole == proof.answers.sessions == proof.answers.signed_to_the_end == 1
    assert proof.answers.unsigned_rows == 0
    assert proof.answers.charged_nanos > 0


async def test_the_oracle_sees_what_it_is_for(paid):
    world, place, answer, hops = paid
    longer = answer | {"u": [10, 0, 9]}
    assert judge(world, place, [longer], hops).paid_wrongly
    twice = [answer, answer | {"q": 1}]
    assert judge(world, place, twice, hops).paid_twice
    unknown = answer | {"s": "ab" * 16}
    assert judge(world, place, [answer, unknown], hops).paid_wrongly
    unpaid = [hop | {"n": 18, "a": hop["a"] + 1} for hop in hops]
    assert judge(world, place, [answer], unpaid).paid_wrongly
    assert judge(world, place, [answer], [hop | {"n": 14} for hop in hops]).paid_wrongly
    pool = dataclasses.asdict(place.pool()) | {"paid_in_nanos": DOLLAR + 1}
    place.pool_path.write_text(json.dumps(pool))
    assert judge(world, place, [answer], hops).paid_wrongly


@linux
def test_a_process_in_a_gateways_place_is_a_process(gateway):
    """The group that `Moments` kills is that of the gateway alone."""
    gateway.start()
    assert os.getpgid(gateway.pid) == gateway.pid != os.getpgid(0)
