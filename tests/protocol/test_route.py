import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import PieceworkError, RemoteProtocolError, RouteInvalid
from protocol.limits import HOPS_MAX, LAYERS_MAX
from protocol.route import Hop, Route, Span
from tests.protocol.samples import PROVIDER

bounds = st.integers(-2, LAYERS_MAX + 2)


def hop(start: int, end: int) -> Hop:
    return Hop(PROVIDER.peer_id, Span(start, end))


class TestSpan:
    @given(bounds, bounds)
    def test_is_a_half_open_range_of_layers_or_refused(self, start, end):
        if 0 <= start <= end <= LAYERS_MAX:
            span = Span(start, end)
            assert len(span) == len(range(start, end))
            assert Span.from_text(str(span)) == span
        else:
            with pytest.raises(RemoteProtocolError):
                Span(start, end)

    @given(st.text(max_size=20))
    def test_any_text_is_a_span_or_refused(self, text):
        with contextlib.suppress(RemoteProtocolError):
            assert isinstance(Span.from_text(text), Span)

    @pytest.mark.parametrize("text", ["", ":", "1", "1:", ":2", "2:1", "-1:2", "0:9999", "a:b"])
    def test_refuses_other_texts(self, text):
        with pytest.raises(RemoteProtocolError):
            Span.from_text(text)

    def test_contains(self):
        assert Span(2, 8).contains(Span(2, 8))
        assert Span(2, 8).contains(Span(3, 5))
        assert not Span(2, 8).contains(Span(1, 5))
        assert not Span(2, 8).contains(Span(5, 9))


class TestRoute:
    @given(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=5), st.integers(0, 12)
    )
    def test_tiles_the_model_or_is_refused(self, bounds_of_hops, layers):
        hops = [hop(min(pair), max(pair)) for pair in bounds_of_hops]
        covered = [layer for h in hops for layer in range(h.span.start, h.span.end)]
        tiles = covered == list(range(layers)) and hops and all(len(h.span) for h in hops)
        if tiles:
            assert Route.of("model", layers, hops).hops == tuple(hops)
        else:
            with pytest.raises(RouteInvalid):
                Route.of("model", layers, hops)

    @given(st.sets(st.integers(1, 49)))
    def test_every_cut_of_a_model_is_a_route(self, cuts):
        edges = [0, *sorted(cuts), 50]
        route = Route.of("model", 50, [hop(*pair) for pair in itertools.pairwise(edges)])
        assert sum(len(h.span) for h in route.hops) == 50
        assert route.sealed

    def test_refuses_a_gap_an_overlap_and_an_early_end_by_name(self):
        for hops, reason in (
            ([hop(0, 2), hop(3, 4)], "layer 2 comes next"),
            ([hop(0, 3), hop(2, 4)], "layer 3 comes next"),
            ([hop(0, 3)], "layer 3 of 4"),
            ([], "between 1 and"),
        ):
            with pytest.raises(RouteInvalid, match=reason):
                Route.of("model", 4, hops)

    def test_refuses_more_hops_than_the_limit(self):
        hops = [hop(layer, layer + 1) for layer in range(HOPS_MAX + 1)]
        Route.of("model", HOPS_MAX, hops[:-1])
        with pytest.raises(RouteInvalid):
            Route.of("model", HOPS_MAX + 1, hops)

    def test_error_is_one_of_ours(self):
        assert issubclass(RouteInvalid, PieceworkError)
