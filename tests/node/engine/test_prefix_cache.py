"""KVBudget: promises never pass the budget, and what is cached gives way to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.errors import OutOfKV
from node.engine.prefix_cache import ENTRIES_MAX, KVBudget
from protocol.limits import PREFIX_BLOCK_TOKENS as BLOCK
from protocol.route import Span

SPAN = Span(0, 4)


class Rows:
    """What a backend would keep of one sequence: here only how much of it is left."""

    def __init__(self) -> None:
        self.tokens = 10**9

    def cut(self, tokens: int) -> None:
        assert tokens < self.tokens, "forgotten twice, or grown"
        self.tokens = tokens


def budget_of(kv_tokens: int, **options: int) -> KVBudget[Rows]:
    return KVBudget(kv_tokens, Rows.cut, **options)


def chain(text: str) -> list[bytes]:
    """A letter a block; as a hash chain, each link depends on all before it."""
    return [text[: index + 1].encode() for index in range(len(text))]


def keep(budget: KVBudget[Rows], text: str, *, span: Span = SPAN, spare: int = 1) -> Rows:
    """Open and close a sequence of the blocks of `text` and `spare` rows more."""
    tokens = len(text) * BLOCK + spare
    found = budget.open(tokens, span, chain(text))
    rows = found.rows if found is not None and found.is_taken else Rows()
    rows.tokens = 10**9
    budget.close(tokens, span, rows, tokens, chain(text))
    return rows


def found_tokens(budget: KVBudget[Rows], text: str, *, span: Span = SPAN) -> int:
    """How much of `text` an opening finds; it is closed again and keeps nothing."""
    tokens = len(text) * BLOCK + 1
    found = budget.open(tokens, span, chain(text))
    if found is None:
        budget.cancel(tokens)
        return 0
    if found.is_taken:
        budget.close(tokens, span, found.rows, found.tokens, chain(text))
    else:
        budget.cancel(tokens)
    return found.tokens


class TestOpen:
    def test_an_opening_reserves_and_is_refused_past_the_budget(self):
        budget = budget_of(100)
        budget.open(60, SPAN)
        with pytest.raises(OutOfKV, match="of 100, 40 are free"):
            budget.open(41, SPAN)
        budget.open(40, SPAN)
        assert budget.reserved_tokens == 100
        budget.close(60, SPAN, Rows(), 10)
        assert budget.reserved_tokens == 40

    def test_very_short_sequences_are_refused_before_their_pages_pass_the_budget(self):
        budget = budget_of(1000, rounding_tokens=32)
        for _ in range((1000 * 9 // 8 + 64) // 32):
            budget.open(1, SPAN)
        with pytest.raises(OutOfKV, match="whole pages"):
            budget.open(1, SPAN)
        budget.cancel(1)
        budget.open(1, SPAN)

    def test_the_longest_common_beginning_is_found(self):
        budget = budget_of(100 * BLOCK)
        keep(budget, "bb")
        longer = keep(budget, "acde")
        assert budget.reused_tokens == 0
        found = budget.open(10 * BLOCK, SPAN, chain("acdxyz"))
        assert (found.rows, found.tokens, found.is_taken) == (longer, 3 * BLOCK, False)
        assert longer.tokens == 4 * BLOCK
        assert budget.reused_tokens == 3 * BLOCK

    @pytest.mark.parametrize("text", ["x", "xab", ""])
    def test_another_beginning_finds_nothing(self, text):
        budget = budget_of(100 * BLOCK)
        keep(budget, "ab")
        assert budget.open(10 * BLOCK, SPAN, chain(text)) is None

    def test_another_span_finds_nothing(self):
        budget = budget_of(100 * BLOCK)
        keep(budget, "ab")
        assert found_tokens(budget, "ab", span=Span(0, 3)) == 0
        assert found_tokens(budget, "ab", span=Span(1, 4)) == 0
        assert found_tokens(budget, "ab") == 2 * BLOCK

    def test_one_row_of_the_capacity_is_always_left_to_send(self):
        budget = budget_of(100 * BLOCK)
        keep(budget, "abc")
        for capacity, tokens in ((BLOCK, 0), (BLOCK + 1, BLOCK), (3 * BLOCK, 2 * BLOCK)):
            found = budget.open(capacity, SPAN, chain("abc"))
            assert (found.tokens if found else 0) == tokens

    def test_a_whole_entry_is_taken_over_before_others_are_evicted(self):
        budget = budget_of(10 * BLOCK)
        keep(budget, "xy")
        mine = keep(budget, "abcd")
        found = budget.open(8 * BLOCK, SPAN, chain("abcdef"))
        assert (found.rows, found.tokens, found.is_taken) == (mine, 4 * BLOCK, True)
        assert budget.cached_tokens == 2 * BLOCK

    def test_a_part_of_an_entry_is_taken_over_when_all_others_are_gone(self):
        budget = budget_of(10 * BLOCK)
        other = keep(budget, "xy")
        mine = keep(budget, "abcd")
        found = budget.open(8 * BLOCK, SPAN, chain("abZ"))
        assert (found.rows, found.tokens, found.is_taken) == (mine, 2 * BLOCK, True)
        assert (other.tokens, budget.cached_tokens) == (0, 0)

    def test_the_least_recently_used_gives_way(self):
        budget = budget_of(10 * BLOCK)
        kept = {text: keep(budget, text) for text in ("ab", "cd", "ef")}
        assert found_tokens(budget, "ab") == 2 * BLOCK
        budget.open(6 * BLOCK, SPAN)
        assert [rows.tokens for rows in kept.values()] == [2 * BLOCK, 0, 2 * BLOCK]

    def test_cached_rows_never_make_an_opening_fail(self):
        budget = budget_of(10 * BLOCK)
        for text in ("abc", "def", "ghi"):
            keep(budget, text)
        assert budget.cached_tokens == 9 * BLOCK
        assert budget.open(10 * BLOCK, SPAN) is None
        assert budget.cached_tokens == 0


class TestClose:
    def test_only_whole_blocks_that_are_there_are_kept(self):
        budget = budget_of(100 * BLOCK)
        budget.open(50 * BLOCK, SPAN)
        rows = Rows()
        assert budget.close(50 * BLOCK, SPAN, rows, 3 * BLOCK - 1, chain("abcd")) == 2 * BLOCK
        assert (rows.tokens, budget.cached_tokens) == (2 * BLOCK, 2 * BLOCK)

    def test_nothing_named_or_no_whole_block_keeps_nothing(self):
        for length, hashes in ((BLOCK - 1, chain("a")), (BLOCK, [])):
            budget = budget_of(100 * BLOCK)
            budget.open(BLOCK, SPAN)
            rows = Rows()
            assert budget.close(BLOCK, SPAN, rows, length, hashes) == 0
            assert (rows.tokens, budget.cached_tokens) == (0, 0)

    def test_a_continued_prefix_replaces_what_it_continues(self):
        budget = budget_of(100 * BLOCK)
        first, second = keep(budget, "ab"), keep(budget, "abcd")
        assert (first.tokens, second.tokens) == (0, 4 * BLOCK)
        assert budget.cached_tokens == 4 * BLOCK

    def test_a_prefix_that_another_holds_is_not_kept_twice(self):
        budget = budget_of(10 * BLOCK)
        held, other = keep(budget, "abcd"), keep(budget, "x")
        assert keep(budget, "ab").tokens == 0
        assert budget.cached_tokens == 5 * BLOCK
        budget.open(6 * BLOCK, SPAN)  # the shorter one's closing has used the longer one
        assert (held.tokens, other.tokens) == (4 * BLOCK, 0)

    def test_of_equal_names_the_newer_rows_stay(self):
        budget = budget_of(10 * BLOCK)
        older, newer = keep(budget, "ab"), keep(budget, "ab")
        assert (older.tokens, newer.tokens) == (0, 2 * BLOCK)
        found = budget.open(3 * BLOCK, SPAN, chain("ab"))
        assert found is not None
        assert found.rows is newer

    def test_entries_are_bounded(self):
        budget = budget_of(10 * ENTRIES_MAX * BLOCK)
        kept = [keep(budget, chr(0x4E00 + index)) for index in range(ENTRIES_MAX + 3)]
        assert budget.cached_tokens == ENTRIES_MAX * BLOCK
        assert [rows.tokens for rows in kept[:4]] == [0, 0, 0, BLOCK]

    def test_what_is_cached_counts_in_whole_pages_too(self):
        budget = budget_of(2 * BLOCK, rounding_tokens=48)
        keep(budget, "a", spare=0)
        budget.open(BLOCK, SPAN)  # 96 of the 144 + 96 that pages may take; with the cached, 192
        assert budget.cached_tokens == BLOCK


@given(
    st.lists(
        st.tuples(
            st.text("ab", max_size=5),
            st.integers(1, 12 * BLOCK),
            st.sampled_from([SPAN, Span(0, 2)]),
            st.booleans(),
            st.floats(0, 1),
        ),
        max_size=40,
    )
)
def test_the_budget_is_never_passed_and_every_row_has_one_owner(operations):
    budget = budget_of(20 * BLOCK, rounding_tokens=32)
    opened: list[tuple[int, Span, Rows]] = []
    everything: list[Rows] = []
    for text, capacity, span, closes, share in operations:
        if closes and opened:
            tokens, its_span, rows = opened.pop(int(share * (len(opened) - 1)))
            kept = budget.close(tokens, its_span, rows, int(share * tokens), chain(text))
            assert kept == rows.tokens
        else:
            try:
                found = budget.open(capacity, span, chain(text))
            except OutOfKV:
                continue
            assert found is None or found.tokens < capacity
            rows = found.rows if found is not None and found.is_taken else Rows()
            rows.tokens = 10**9
            everything.append(rows)
            opened.append((capacity, span, rows))
        reserved = sum(tokens for tokens, _, _ in opened)
        assert budget.reserved_tokens == reserved
        assert reserved + budget.cached_tokens <= 20 * BLOCK
        mine = {id(rows) for _, _, rows in opened}
        idle = {id(rows): rows.tokens for rows in everything if id(rows) not in mine}
        assert sum(idle.values()) == budget.cached_tokens, "rows were forgotten, or lost"
