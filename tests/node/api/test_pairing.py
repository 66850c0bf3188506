"""Who may use a private node's API."""

import pytest
from starlette.testclient import TestClient

from node.api.application import create_api
from node.api.readiness import Readiness, ReadyState
from node.api.settings import ApiSettings
from node.head.testing import FakeHead

TOKEN = "a-token-that-was-printed-once"
PAIRED = {"authorization": f"Bearer {TOKEN}"}


def models(client, host="127.0.0.1:8470", **headers):
    api = create_api(
        FakeHead(),
        readiness=Readiness(ReadyState.READY),
        settings=ApiSettings(pairing_token=TOKEN),
    )
    with TestClient(api, client=(client, 50_000)) as session:
        return session.get("/v1/models", headers={"host": host, **headers})


@pytest.mark.parametrize("host", ["127.0.0.1:8470", "localhost:8470", "[::1]:8470", "localhost"])
def test_this_machines_own_programs_need_no_token(host):
    assert models("127.0.0.1", host).status_code == 200
    assert models("::1", host).status_code == 200


def test_other_machines_need_the_token():
    refused = models("192.168.1.9")
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert "pairing token" in refused.json()["error"]["message"]
    assert models("192.168.1.9", "desk.local:8470", **PAIRED).status_code == 200


@pytest.mark.parametrize("shown", ["Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer ", "Bearer é"])
def test_a_wrong_token_is_none(shown):
    assert models("192.168.1.9", authorization=shown.encode()).status_code == 401


def test_a_page_that_points_its_name_at_loopback_is_not_ours():
    assert models("127.0.0.1", "evil.example:8470").status_code == 401
    assert models("127.0.0.1", "127.0.0.1.evil.example").status_code == 401
    assert models("127.0.0.1", "").status_code == 401


def test_without_a_token_nothing_is_asked():
    api = create_api(FakeHead(), readiness=Readiness(ReadyState.READY))
    with TestClient(api, client=("192.168.1.9", 50_000)) as session:
        assert session.get("/v1/models").status_code == 200
