"""The laboratory behaves as it says: NATs, lines, faults, and nothing left behind."""

import contextlib
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.netlab.lab import Lab
from tests.netlab.line import Counters
from tests.netlab.namespace import NAMES, LabError, is_running, tool
from tests.netlab.nat import NatKind
from tests.netlab.node import Host
from tests.netlab.sightings import hears, look, udp

ROOT = Path(__file__).parents[2]
SLEEP = ("sleep", "600")


class TestNat:
    @pytest.mark.parametrize(
        ("kind", "keeps_mapping", "keeps_port", "open_to_address", "open_to_all"),
        [
            ("none", True, True, True, True),
            ("firewall", True, True, False, False),
            ("full-cone", True, True, True, True),
            ("restricted", True, True, True, False),
            ("port-restricted", True, True, False, False),
            ("remapping", True, False, False, False),
            ("symmetric", False, False, False, False),
            ("symmetric-narrow", False, False, False, False),
            ("cgnat", True, False, False, False),
        ],
    )
    def test_kind_maps_and_filters_as_its_table_says(
        self, lab, kind, keeps_mapping, keeps_port, open_to_address, open_to_all
    ):
        observer = lab.public("observer", addresses=3)
        host = lab.home("home", kind).host("a")

        seen = look(lab, host, observer, port=10_000)

        assert len(seen.addresses) == 4
        assert {ip for ip, _ in seen.addresses} == {lab.outside_ip(host)}
        assert seen.keeps_mapping == keeps_mapping
        assert seen.keeps_port == keeps_port
        assert seen.open_to_address == open_to_address
        assert seen.open_to_all == open_to_all

    def test_udp_blocked_lets_tcp_pass_only(self, lab):
        observer = lab.public("observer", addresses=3)
        host = lab.home("home", NatKind.UDP_BLOCKED).host("a")

        assert look(lab, host, observer).addresses == ()
        assert _tcp_connects(host, observer)

    def test_two_hosts_of_a_home_and_two_homes_of_a_carrier_reach_the_outside(self, lab):
        observer = lab.public("observer")
        carrier = lab.carrier("carrier")
        homes = [lab.home(f"home{n}", behind=carrier) for n in range(2)]
        hosts = [home.host(f"{home.name}-{n}") for home in homes for n in range(2)]
        with udp(observer, observer.ip) as listener:
            for host in hosts:
                with udp(host) as inside:
                    assert hears(inside, listener.getsockname(), listener)

    def test_nat_can_change_while_it_runs(self, lab):
        observer = lab.public("observer", addresses=3)
        home = lab.home("home", NatKind.FULL_CONE)
        host = home.host("a")
        assert look(lab, host, observer).open_to_all

        home.set_nat(NatKind.SYMMETRIC)

        assert not look(lab, host, observer).keeps_mapping
        with pytest.raises(LabError, match="make another home"):
            home.set_nat(NatKind.NONE)

    def test_ipv6_is_routed_and_lets_only_answers_in(self):
        with Lab(ipv6=True) as lab:
            host, other = lab.home("home").host("a"), lab.public("other")
            with (
                host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as inside,
                other.socket(socket.AF_INET6, socket.SOCK_DGRAM) as outside,
            ):
                for opened in (inside, outside):
                    opened.bind(("::", 0))
                    opened.settimeout(0.3)
                inside_address = (host.ipv6, inside.getsockname()[1])
                assert not hears(outside, inside_address, inside)
                assert hears(inside, (other.ipv6, outside.getsockname()[1]), outside)
                assert hears(outside, inside_address, inside)


class TestLine:
    def test_delay_and_jitter_are_about_right(self, lab):
        relay = lab.public("relay")
        host = lab.home("home", delay_ms=15, jitter_ms=3).host("a")

        round_trips_ms = _round_trips_ms(host, relay, 40)

        assert len(round_trips_ms) == 40
        assert 27 < statistics.median(round_trips_ms) < 45
        assert 1 < statistics.stdev(round_trips_ms[1:]) < 20

    def test_loss_is_about_right(self, lab):
        relay = lab.public("relay")
        home = lab.home("home", wire=True)
        host = home.host("a")
        home.link.shape(loss=0.2)
        with udp(host) as inside, udp(relay) as outside:
            for _ in range(1000):
                inside.sendto(b"x", (relay.ip, outside.getsockname()[1]))
            assert _wait(lambda: _frames(home.link.counters()[0]) >= 1000)
        up, _ = home.link.counters()
        assert 140 < up.lost < 260

    def test_rate_is_about_right(self, lab):
        relay = lab.public("relay")
        host = lab.home("home", up="10mbit", queue_ms=50).host("a")
        mbit_per_s = _upload_mbit_per_s(host, relay, seconds=0.7)
        assert 8 < mbit_per_s < 10.5

    def test_line_without_a_wire_refuses_a_delay(self, lab):
        home = lab.home("home")
        with pytest.raises(LabError, match="wire=True"):
            home.link.shape(delay_ms=5)


class TestFaults:
    def test_cut_is_silent_and_heals(self, lab):
        relay, home = lab.public("relay"), lab.home("home")
        with udp(home.host("a")) as inside, udp(relay) as outside:
            to = (relay.ip, outside.getsockname()[1])
            assert hears(inside, to, outside)
            home.cut()
            assert not hears(inside, to, outside)  # and sending raised nothing
            home.heal()
            assert hears(inside, to, outside)

    @pytest.mark.parametrize("kind", ["remapping", "symmetric", "cgnat"])
    def test_reboot_changes_mappings(self, lab, kind):
        observer = lab.public("observer", addresses=3)
        home = lab.home("home", kind)
        host = home.host("a")
        before = look(lab, host, observer, port=10_000)
        router = home.plugged_into or home

        router.reboot()

        after = look(lab, host, observer, port=10_000)
        assert len(after.addresses) == 4
        assert after.addresses[0] != before.addresses[0]

    @pytest.mark.parametrize("kind", ["full-cone", "port-restricted"])
    def test_reboot_can_change_the_address(self, lab, kind):
        observer = lab.public("observer", addresses=3)
        home = lab.home("home", kind)
        host = home.host("a")
        before = lab.outside_ip(host)

        home.reboot(new_address=True)

        seen = look(lab, host, observer)
        assert lab.outside_ip(host) != before
        assert {ip for ip, _ in seen.addresses} == {lab.outside_ip(host)}

    @pytest.mark.parametrize("kind", ["full-cone", "restricted", "port-restricted"])
    def test_flush_forgets_who_may_come_in(self, lab, kind):
        relay, home = lab.public("relay"), lab.home("home", kind)
        with udp(home.host("a")) as inside, udp(relay) as outside:
            assert hears(inside, (relay.ip, outside.getsockname()[1]), outside)
            back = (home.ip, inside.getsockname()[1])
            assert hears(outside, back, inside)
            home.flush()
            assert not hears(outside, back, inside)

    def test_partition_parts_two_and_nobody_else(self, lab):
        one, other, third = (lab.public(name) for name in ("one", "other", "third"))
        with udp(one) as a, udp(other) as b, udp(third) as c:
            lab.partition(one, other)
            assert not hears(a, (other.ip, b.getsockname()[1]), b)
            assert not hears(b, (one.ip, a.getsockname()[1]), a)
            assert hears(a, (third.ip, c.getsockname()[1]), c)
            lab.reunite()
            assert hears(a, (other.ip, b.getsockname()[1]), b)


class TestLan:
    def test_hosts_hear_multicast_and_what_leaves_is_counted(self, lab):
        lan = lab.lan("office", hosts=3)
        group, port = "224.0.0.251", 5353
        sender, *listeners = lan.hosts
        with contextlib.ExitStack() as closing:
            joined = []
            for host in listeners:
                heard = closing.enter_context(udp(host, "0.0.0.0", port))
                membership = socket.inet_aton(group) + socket.inet_aton(host.ip)
                heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
                joined.append(heard)
            talking = closing.enter_context(udp(sender))
            talking.setsockopt(
                socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sender.ip)
            )
            assert all(hears(talking, (group, port), heard) for heard in joined)
            assert lab.outside_packets() == []

            talking.sendto(b"?", ("1.1.1.1", 53))

            assert _wait(lambda: bool(found := lab.outside_packets()) and _is_dns(found, sender))

    def test_lan_reaches_no_other_network_of_the_laboratory(self, lab):
        relay, (host,) = lab.public("relay"), lab.lan("office", hosts=1).hosts
        with udp(host) as inside, udp(relay) as outside:
            assert not hears(inside, (relay.ip, outside.getsockname()[1]), outside)


class TestLife:
    @pytest.fixture(autouse=True)
    def _machine(self, lab):
        """Skips where there is no laboratory."""

    def test_nothing_is_left_after_an_exception(self):
        started = []

        def fail() -> None:
            with Lab() as lab:
                host = lab.public("host")
                started.append((host.namespace.name.removesuffix("host"), host.popen(SLEEP)))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        ((prefix, sleeper),) = started
        assert sleeper.poll() is not None
        assert _left(prefix) == []

    def test_nothing_is_left_after_the_owner_is_killed(self):
        script = (
            "from tests.netlab.lab import Lab\n"
            "lab = Lab()\n"
            "host = lab.home('home', delay_ms=1).host('a')\n"
            "sleeper = host.popen(['sleep', '600'])\n"
            "print(host.namespace.name.removesuffix('a'), sleeper.pid, flush=True)\n"
            "sleeper.wait()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as owner:
            prefix, sleeper = owner.stdout.readline().split()
            assert _left(prefix)
            owner.send_signal(signal.SIGKILL)
        assert _wait(lambda: not _left(prefix), timeout_s=10)
        assert not is_running(int(sleeper))

    def test_laboratories_stand_side_by_side(self, lab):
        with Lab(pool="global") as second:
            hosts = [each.public("relay") for each in (lab, second)]
            assert hosts[0].ip == hosts[1].ip
            with udp(hosts[0]) as a, udp(hosts[1]) as b:
                assert not hears(a, (hosts[0].ip, b.getsockname()[1]), b)

    def test_programs_and_threads_begun_inside_stay_inside(self, lab):
        host = lab.public("host")
        assert host.ip in host.run([tool("ip"), "-4", "addr"]).stdout
        found = []
        with host.enter():
            thread = threading.Thread(target=lambda: found.append(_can_bind(host.ip)))
            thread.start()
        thread.join()
        assert found == [True]
        assert not _can_bind(host.ip)


def _is_dns(found, sender: Host) -> bool:
    return [(p.source, p.destination, p.port) for p in found] == [(sender.ip, "1.1.1.1", 53)]


def _frames(counters: Counters) -> int:
    return counters.carried + counters.lost + counters.overflowed


def _left(prefix: str) -> list[str]:
    return [path.name for path in NAMES.iterdir() if path.name.startswith(prefix)]


def _wait(condition, timeout_s: float = 3.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(held)


def _can_bind(ip: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind((ip, 0))
        except OSError:
            return False
    return True


def _tcp_connects(host: Host, server: Host) -> bool:
    with (
        server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        host.socket(socket.AF_INET, socket.SOCK_STREAM) as dialing,
    ):
        listener.bind((server.ip, 0))
        listener.listen()
        dialing.settimeout(2)
        return dialing.connect_ex(listener.getsockname()) == 0


def _round_trips_ms(host: Host, relay: Host, count: int) -> list[float]:
    found = []
    with udp(host) as inside, udp(relay) as outside:
        for _ in range(count):
            sent = time.perf_counter()
            inside.sendto(b"x", (relay.ip, outside.getsockname()[1]))
            outside.sendto(*outside.recvfrom(64))
            inside.recv(64)
            found.append((time.perf_counter() - sent) * 1000)
    return found


def _upload_mbit_per_s(host: Host, relay: Host, seconds: float) -> float:
    """Of what arrives when twice the rate is offered; the first burst is not counted."""
    received, begun = 0, None
    with udp(host) as inside, udp(relay) as outside:
        to = (relay.ip, outside.getsockname()[1])
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            inside.sendto(bytes(1200), to)
            with contextlib.suppress(BlockingIOError):
                received += len(outside.recv(2048, socket.MSG_DONTWAIT)) + 28
                begun = begun or now
            time.sleep(0.0004)
        return received * 8 / (now - begun) / 1e6
