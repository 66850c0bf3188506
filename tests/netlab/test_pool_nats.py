"""A paid answer through three homes that nobody can dial, whatever their routers do."""

import threading

import pytest

from tests.flows.test_pool import unsplit_answer
from tests.netlab.lab import Lab
from tests.netlab.nat import NatKind
from tests.netlab.pool import LabPool
from tests.netlab.requirements import needs_lab

pytestmark = [needs_lab, pytest.mark.slow, pytest.mark.timeout(400)]

QUESTION = "Explain what a span is and why a model runs in pieces."
TOKENS = 60
NATS = (NatKind.SYMMETRIC, NatKind.UDP_BLOCKED, NatKind.CGNAT)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with Lab(pool="global") as lab:
        pool = LabPool(lab, tmp_path_factory.mktemp("nats"), NATS)
        try:
            yield pool
        finally:
            pool.close()


@pytest.fixture(scope="module")
def expected():
    return unsplit_answer(QUESTION, TOKENS)


def test_every_hop_behind_another_nat_and_one_without_udp(pool, expected):
    text, last = pool.ask(QUESTION, TOKENS)
    assert text == expected
    assert last["usage"]["completion_tokens"] == TOKENS
    # the one without UDP is reached by the relay alone
    assert set(pool.paths()[1]) == {"relayed"}


@pytest.mark.parametrize("index", range(2), ids=[str(nat) for nat in NATS[:2]])
def test_a_router_that_reboots_in_mid_answer_costs_no_token(pool, expected, index):
    rebooting = threading.Thread(
        target=pool.homes[index].reboot, kwargs={"downtime_s": 1.0, "new_address": True}
    )

    def on_token(count):
        if count == 10:
            rebooting.start()

    text, _ = pool.ask(QUESTION, TOKENS, on_token)
    rebooting.join()
    assert text == expected
