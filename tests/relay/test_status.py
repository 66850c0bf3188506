from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from relay.metrics import Counts, Fill
from relay.resources import Resources
from relay.status import Identity, create_status_app

IDENTITY = Identity("12D3KooW", "1.2.3", ("/ip4/203.0.113.9/tcp/4001/p2p/12D3KooW",), (4001, 4002))


def counts(**changed):
    values = {
        "uptime_s": 12.34,
        "is_draining": False,
        "fills": (Fill("circuits.reservations_max", 1, 100), Fill("circuits.circuits_max", 9, 10)),
        "circuit_bytes": 1000,
        "circuits_ended": {"finished": 3},
        "forwarded_bytes": 2000,
        "forwarded_datagrams": 2,
        "reflected": 5,
        "datagrams_dropped": {"unbound": 4},
        "refused": {"circuits.reservations_max": 7},
    }
    return Counts(**{**values, **changed})


def client(**changed):
    return TestClient(create_status_app(lambda: IDENTITY, Resources(), lambda: counts(**changed)))


def test_status_tells_what_runs_and_which_limit_is_nearest():
    status = client().get("/status").json()
    assert status["peer_id"] == "12D3KooW"
    assert status["state"] == "serving"
    assert [fill["limit"] for fill in status["limits_near"]] == [
        "circuits.circuits_max",
        "circuits.reservations_max",
    ]
    assert status["limits_near"][0]["share"] == 0.9
    assert status["limits"]["circuits"]["reservations_max"] == 4096
    assert status["refused"] == {"circuits.reservations_max": 7}


def test_metrics_are_what_prometheus_reads():
    answer = client().get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["piecework_relay_used", "circuits.circuits_max"] == 9
    assert samples["piecework_relay_limit", "circuits.circuits_max"] == 10
    assert samples["piecework_relay_circuit_bytes_total",] == 1000
    assert samples["piecework_relay_forwarded_bytes_total",] == 2000
    assert samples["piecework_relay_refused_total", "circuits.reservations_max"] == 7
    assert samples["piecework_relay_datagrams_dropped_total", "unbound"] == 4
    assert samples["piecework_relay_draining",] == 0


def test_health_is_told_to_balancers():
    assert client().get("/healthz").status_code == 200
    assert client(is_draining=True).get("/healthz").status_code == 503
