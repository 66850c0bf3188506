"""The congestion controller over a simulated bottleneck: rate, queue, company, change.

Virtual time, fixed seeds: every run is the same. Shares are of the rate of the bottleneck.
"""

from types import SimpleNamespace

import pytest
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.congestion.reno import RenoCongestionControl

from tests.transport.bottleneck import SIZE, Link, Network, mbit
from transport.congestion.controller import CongestionController
from transport.congestion.phases import Phase


def network(rate=20, rtt=0.04, *, seed=1, **line) -> Network:
    return Network(Link(mbit(rate), rtt, **line), seed)


class TestAlone:
    @pytest.mark.parametrize(
        ("rate", "rtt", "loss", "mark"),
        [
            (20, 0.04, 0.0, 0.9),
            (20, 0.04, 0.005, 0.9),
            (20, 0.04, 0.01, 0.85),
            (5, 0.04, 0.005, 0.9),
            (50, 0.02, 0.005, 0.85),
            (20, 0.1, 0.005, 0.8),
        ],
    )
    @pytest.mark.parametrize("buffer_bdp", [1, 5])
    def test_random_loss_takes_little_of_the_rate_and_the_queue_is_short(
        self, rate, rtt, loss, mark, buffer_bdp
    ):
        net = network(rate, rtt, loss=loss, buffer_bdp=buffer_bdp)
        flow = net.ours()
        net.run(6)
        assert flow.rate(0, 6) >= mark * net.link.rate
        assert net.median_queue(0.5, 6) <= 0.010

    def test_aioquics_reno_collapses_there(self):
        net = network(loss=0.005)
        flow = net.add(RenoCongestionControl(max_datagram_size=SIZE))
        net.run(6)
        assert flow.rate(0, 6) < 0.5 * net.link.rate

    def test_a_millisecond_of_reordering_costs_nothing(self):
        net = network(reorder_s=0.001)
        flow = net.ours()
        net.run(6)
        assert flow.rate(0, 6) >= 0.9 * net.link.rate

    def test_a_shallow_buffer_is_not_flooded(self):
        net = network(buffer_bdp=0.15)
        flow = net.ours()
        net.run(10)
        assert flow.rate(2, 10) >= 0.8 * net.link.rate
        assert flow.lost <= 0.05 * flow.number

    def test_a_rate_that_halves_is_followed_and_one_that_doubles_too(self):
        net = network(buffer_bdp=3)
        flow = net.ours()
        net.run(4)
        net.link.rate /= 2
        net.run(10)
        assert net.median_queue(7, 10) <= 0.010
        net.link.rate *= 2
        net.run(14)
        assert flow.rate(12, 14) >= 0.85 * net.link.rate

    def test_a_path_that_becomes_longer_is_still_used(self):
        net = network(buffer_bdp=3)
        flow = net.ours()
        net.run(4)
        net.link.rtt = 0.08
        net.run(20)
        assert flow.rate(10, 20) >= 0.8 * net.link.rate


class TestSeed:
    def transfer_s(self, seed_mbit: float | None) -> float:
        """A cold megabyte at 20 Mbit/s and 100 ms."""
        net = network(20, 0.1)
        flow = net.ours(demand=1_000_000)
        if seed_mbit is not None:
            flow.control.seed(mbit(seed_mbit), 0.1)
        net.run(5)
        return next(at for at, count in flow.delivered_at if count >= 1_000_000)

    def test_half_the_last_known_rate_saves_most_of_startup(self):
        assert self.transfer_s(20) < self.transfer_s(None) - 0.2
        assert self.transfer_s(20) < 0.494 * 1.3

    def test_a_seed_that_promises_too_much_is_soon_corrected(self):
        net = network(5, 0.04, buffer_bdp=3)
        flow = net.ours()
        flow.control.seed(mbit(50), 0.04)
        net.run(6)
        assert flow.rate(0, 6) >= 0.85 * net.link.rate
        assert net.median_queue(1, 6) <= 0.010

    def test_an_estimate_is_given_once_the_path_was_the_limit(self):
        net = network()
        flow = net.ours()
        assert flow.control.bandwidth_bytes_s is None
        net.run(3)
        assert flow.control.bandwidth_bytes_s == pytest.approx(net.link.rate, rel=0.1)
        assert flow.control.min_rtt_s == pytest.approx(0.04, abs=0.003)

    def test_a_sender_of_little_is_never_taken_for_a_slow_path(self):
        net = network()
        flow = net.ours(demand=20 * SIZE)
        for second in range(1, 20):
            flow.demand += 10 * SIZE
            net.at(second / 4, flow.pump)
        net.run(6)
        assert flow.control.bandwidth_bytes_s is None


class TestCompany:
    @pytest.mark.parametrize("buffer_bdp", [1, 5])
    @pytest.mark.parametrize(("ours_at", "other_at"), [(0, 3), (3, 0)])
    def test_a_third_is_kept_beside_a_flow_that_fills_the_queue(
        self, buffer_bdp, ours_at, other_at
    ):
        net = network(buffer_bdp=buffer_bdp)
        flow = net.ours(start=ours_at)
        other = net.add(CubicCongestionControl(max_datagram_size=SIZE), start=other_at)
        net.run(27)
        assert flow.rate(3, 27) >= 0.33 * net.link.rate
        assert other.rate(3, 27) >= 0.2 * net.link.rate

    def test_the_queue_is_short_again_when_the_other_has_left(self):
        net = network(buffer_bdp=5)
        flow = net.ours()
        net.add(CubicCongestionControl(max_datagram_size=SIZE), start=2, stop=14)
        net.run(10)
        assert flow.control.phase in (Phase.COMPETE, Phase.TEST)
        net.run(22)
        assert flow.control.phase not in (Phase.COMPETE, Phase.TEST)
        assert flow.rate(17, 22) >= 0.9 * net.link.rate
        assert net.median_queue(17, 22) <= 0.010

    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_two_of_ours_share_and_do_not_compete(self, seed):
        net = network(buffer_bdp=5, seed=seed)
        flows = net.ours(), net.ours(start=3)
        net.run(18)
        shares = [flow.rate(8, 18) / net.link.rate for flow in flows]
        assert min(shares) >= 0.35
        assert sum(shares) >= 0.9
        assert net.median_queue(8, 18) <= 0.04
        assert all(flow.control.phase not in (Phase.COMPETE, Phase.TEST) for flow in flows)


class TestChange:
    def flowing(self, **line) -> tuple[Network, CongestionController]:
        net = network(**line)
        flow = net.ours()
        net.run(3)
        return net, flow.control

    def test_a_new_path_is_measured_anew(self):
        net, control = self.flowing(rate=5, rtt=0.08)
        control.change_path(3.0, keep_estimates=False)
        assert control.phase is Phase.STARTUP
        assert control.bandwidth_bytes_s is None
        net.link.rate, net.link.rtt = mbit(20), 0.02
        net.run(6)
        assert net.senders[0].rate(4, 6) >= 0.85 * net.link.rate
        assert control.min_rtt_s == pytest.approx(0.02, abs=0.003)

    def test_the_same_line_under_another_address_is_not(self):
        net, control = self.flowing()
        control.change_path(3.0, keep_estimates=True)
        net.run(4)
        assert net.senders[0].rate(3, 4) >= 0.85 * net.link.rate

    def test_losses_of_the_old_path_are_not_the_new_ones(self):
        _, control = self.flowing()
        control.change_path(3.0, keep_estimates=True)
        window = control.window_bytes
        lost = [SimpleNamespace(sent_time=2.9, sent_bytes=SIZE) for _ in range(50)]
        control.on_packets_lost(now=3.1, packets=lost)
        assert control.window_bytes == window

    def test_a_lan_is_not_paced_and_a_wan_after_it_is(self):
        net, control = self.flowing()
        control.relax_for_lan(200)
        assert control.pacing_rate_bytes_s is None
        assert control.window_bytes == 200 * SIZE
        net.run(3.2)
        assert control.pacing_rate_bytes_s is None
        control.change_path(3.2, keep_estimates=True)
        net.run(4)
        assert control.pacing_rate_bytes_s is not None

    def test_after_an_outage_it_begins_with_care_and_is_soon_back(self):
        net, control = self.flowing()
        control.on_persistent_congestion()
        assert control.window_bytes == 4 * SIZE
        net.run(6)
        assert net.senders[0].rate(4, 6) >= 0.85 * net.link.rate
