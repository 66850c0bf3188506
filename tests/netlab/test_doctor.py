"""`piecework doctor` in the laboratory, behind every kind of NAT, against a real relay."""

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.netlab.lab import Lab
from tests.netlab.nat import NatKind
from tests.netlab.node import Host
from tests.netlab.requirements import what_is_missing
from transport.diagnosis.finding import Level
from transport.diagnosis.nat_probe import ReflectorPorts, observe_nat
from transport.diagnosis.nat_type import NatType, classify
from transport.diagnosis.network_findings import nat_findings

PROGRAMS = Path(sys.executable).parent
REFLECTOR_PORTS = (4001, 4002)


def start_relay(host: Host, home: Path) -> str:
    """A real `piecework-relay` in that host; its multiaddr."""
    relay = host.popen(
        [PROGRAMS / "piecework-relay", "--home", home, "--host", host.ip],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return next(line for line in relay.stdout if line.startswith("/ip")).strip()


def nat_of(host: Host, relay: Host) -> NatType:
    """In a thread of its own, which is in the host's namespace with all that it begins."""

    def observe() -> NatType:
        reflectors = [ReflectorPorts(relay.ip, REFLECTOR_PORTS)]
        with host.enter():
            return classify(asyncio.run(observe_nat(reflectors, tcp_answers=True)))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(observe).result()


EXPECTED = {
    "none": ("no NAT", Level.OK),
    "firewall": ("firewall without NAT", Level.OK),
    "full-cone": ("full or restricted cone NAT", Level.OK),
    "restricted": ("full or restricted cone NAT", Level.OK),
    "port-restricted": ("port-restricted NAT", Level.OK),
    "remapping": ("port-restricted NAT", Level.OK),
    "symmetric": ("symmetric NAT", Level.WARN),
    "symmetric-narrow": ("symmetric NAT", Level.WARN),
    "cgnat": ("port-restricted NAT", Level.WARN),
    "double": ("port-restricted NAT", Level.WARN),
    "udp-blocked": ("UDP blocked", Level.WARN),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is found behind every kind of NAT, all at once."""
    if missing := what_is_missing():
        pytest.skip(missing)
    with Lab(pool="global") as lab:
        relay = lab.public("relay")
        hosts = {str(kind): lab.home(kind, kind).host(f"at-{kind}") for kind in NatKind}
        hosts["double"] = lab.home("inner", behind=lab.home("outer")).host("at-inner")
        start_relay(relay, tmp_path_factory.mktemp("relay"))
        with ThreadPoolExecutor(len(hosts)) as threads:
            natures = threads.map(lambda host: nat_of(host, relay), hosts.values())
            return dict(zip(hosts, natures, strict=True))


@pytest.mark.parametrize("kind", EXPECTED)
def test_doctor_names_the_nat(found, kind):
    name, level = EXPECTED[kind]
    assert found[kind].name == name
    assert nat_findings(found[kind])[-1].level is level


def test_doctor_tells_a_carriers_nat_from_a_second_router(found):
    assert found["cgnat"].is_carrier_grade
    assert found["double"].is_double
    assert not any(nat.is_double for kind, nat in found.items() if kind not in ("cgnat", "double"))
    assert not found["double"].is_carrier_grade


def test_doctor_finds_it_all_through_a_relay_and_names_the_dead_one(lab, tmp_path):
    relay = start_relay(lab.public("relay"), tmp_path / "relay")
    home = lab.home("home", "symmetric", up="8mbit", down="40mbit", delay_ms=10)
    dead = relay.replace("/tcp/4001/", "/tcp/4999/")

    done = home.host("a").run(
        [PROGRAMS / "piecework", "doctor", "--json", "--home", tmp_path / "home",
         "--relay", dead, "--relay", relay],
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["schema"], report["ok"]) == (1, True)
    findings = {finding["name"]: finding for finding in report["findings"]}
    relays = [f["level"] for f in report["findings"] if f["name"] == "relay"]
    assert relays == ["warn", "ok"]
    assert findings["udp"]["level"] == "ok"
    assert findings["nat"]["level"] == "warn"
    assert "symmetric" in findings["nat"]["text"].lower()
    assert findings["port-mapping"]["level"] == "warn"
    assert findings["clock"]["level"] == "ok"
    assert 6 < float(findings["bandwidth"]["text"].split()[0]) < 8.5
