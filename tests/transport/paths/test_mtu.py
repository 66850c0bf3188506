import pytest

from transport.paths.mtu import CONFIRM_S, LAN_SIZES, PROBES_MAX, RAISE_S, WAN_SIZES, PathMTU

RTT_S = 0.05


class Path:
    """Carries datagrams up to `width` bytes; answers come after a round trip."""

    def __init__(self, width: int, sizes=WAN_SIZES, first: int = 1200) -> None:
        self.width = width
        self.now = 10.0
        self.used = [first]
        self.probes: list[tuple[float, int]] = []
        self.mtu = PathMTU(sizes, first, self.now, self.used.append)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.mtu.next_timer()) <= end:
            self.now = max(self.now, due)
            size = self.mtu.poll(self.now, RTT_S)
            if size is None:
                assert self.mtu.next_timer() > self.now
                continue
            self.probes.append((self.now, size))
            if size <= self.width:
                self.mtu.on_answered(size, self.now + RTT_S)
        self.now = end


class TestSearch:
    @pytest.mark.parametrize(
        ("width", "sizes", "found"),
        [
            (1472, WAN_SIZES, 1452),
            (1440, WAN_SIZES, 1432),
            (1412, WAN_SIZES, 1400),
            (1300, WAN_SIZES, 1252),
            (1200, WAN_SIZES, 1200),
            (8972, LAN_SIZES, 8900),
            (1472, LAN_SIZES, 1452),
        ],
    )
    def test_finds_the_largest_size_that_comes_across(self, width, sizes, found):
        path = Path(width, sizes)
        path.run(10)
        assert path.used[-1] == found
        assert len(path.probes) <= PROBES_MAX * len(sizes)

    def test_a_wide_path_takes_one_probe(self):
        path = Path(1472)
        path.run(2)
        assert path.probes == [(10.0, 1452)]

    def test_a_size_in_use_already_is_not_searched(self):
        path = Path(9000, first=8900)
        path.run(2)
        assert path.probes == []

    def test_looks_again_whether_a_narrow_path_became_wider(self):
        path = Path(1252)
        path.run(10)
        path.width = 1472
        path.run(RAISE_S + CONFIRM_S)
        assert path.used == [1200, 1252, 1452]


class TestBlackHole:
    def test_narrowed_path_goes_back_to_1200_and_finds_its_new_size(self):
        path = Path(1472)
        path.run(5)
        path.width = 1300
        path.mtu.on_doubted(path.now)
        path.mtu.on_doubted(path.now)  # again and again, while it is confirmed
        path.run(5)
        assert path.used == [1200, 1452, 1200, 1252]

    def test_it_is_noticed_without_a_hint_too(self):
        path = Path(1472)
        path.run(5)
        path.width = 1200
        path.run(CONFIRM_S + 10)
        assert path.used[-1] == 1200

    def test_doubt_about_a_path_that_still_carries_it_changes_nothing(self):
        path = Path(1472)
        path.run(5)
        path.mtu.on_doubted(path.now)
        path.run(5)
        assert path.used == [1200, 1452]

    def test_answer_to_another_size_says_nothing(self):
        path = Path(0)
        path.mtu.poll(path.now, RTT_S)
        path.mtu.on_answered(1400, path.now)
        path.run(20)
        assert path.used == [1200]
