"""Prompt lookup: the longest match, the latest place, copies into themselves, and bounds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from node.head.drafting.lookup import INDEX_STEP_TOKENS, MATCH_LENGTHS, PLACES_MAX, PromptLookup

TOKENS = st.lists(st.integers(0, 3), max_size=60)


def lookup_of(tokens):
    lookup = PromptLookup()
    lookup.confirm(tokens)
    return lookup


async def drafted(tokens, *, behind=(), count=4):
    draft = await lookup_of(tokens).propose([*tokens, *behind], count)
    return draft and (draft.tokens, draft.source)


class Counted(list):
    """Counts how often a token is read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def match_length(branch, place):
    length = 0
    while length < place and branch[place - 1 - length] == branch[len(branch) - 1 - length]:
        length += 1
    return length


class TestPropose:
    async def test_copies_what_followed_the_last_time(self):
        assert await drafted([1, 2, 3, 4, 5, 9, 1, 2]) == ((3, 4, 5, 9), "lookup:2")

    async def test_a_longer_match_goes_before_a_later_one(self):
        tokens = [7, 1, 2, 3, 0, 0, 8, 1, 2, 4, 0, 7, 1, 2]
        assert await drafted(tokens, count=1) == ((3,), "lookup:3")

    async def test_of_equal_matches_the_latest_is_taken(self):
        assert await drafted([5, 1, 2, 3, 6, 1, 2, 4, 9, 1, 2], count=1) == ((4,), "lookup:2")

    async def test_a_copy_goes_on_into_itself(self):
        assert await drafted([0, 1, 2, 1, 2], count=6) == ((1, 2, 1, 2, 1, 2), "lookup:2")

    async def test_continues_a_copy_across_a_drafted_tail(self):
        tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2]
        assert await drafted(tokens, behind=[3, 4], count=2) == ((5, 6), "lookup:4")

    async def test_a_drafted_tail_may_be_what_is_copied_into(self):
        assert await drafted([1, 2, 9, 9, 1, 2], behind=[1, 2], count=2) == ((1, 2), "lookup:2")

    async def test_drafted_tokens_are_no_place_to_copy_from(self):
        lookup = lookup_of([1, 2, 3])
        assert await lookup.propose([1, 2, 3, 5, 6, 7, 5, 6], 2) is None

    async def test_nothing_where_nothing_matches(self):
        assert await drafted([1, 2, 3, 4]) is None
        assert await drafted([1]) is None
        assert await drafted([]) is None

    async def test_the_source_says_how_long_the_match_is(self):
        tokens = list(range(40)) * 2
        lookup = lookup_of(tokens)
        draft = await lookup.propose(tokens, 3)
        assert draft.tokens == (0, 1, 2)
        assert draft.source == lookup.source(tokens) == f"lookup:{MATCH_LENGTHS[-1]}"

    async def test_goes_on_as_tokens_are_confirmed(self):
        lookup = lookup_of([1, 2, 3])
        assert lookup.source([1, 2, 3]) is None
        lookup.confirm([1, 2])
        assert (await lookup.propose([1, 2, 3, 1, 2], 2)).tokens == (3, 1)

    @settings(max_examples=150, deadline=None)
    @given(TOKENS, TOKENS, st.integers(1, 9))
    async def test_agrees_with_a_search_of_everything(self, tokens, tail, count):
        branch = [*tokens, *tail]
        draft = await lookup_of(tokens).propose(branch, count)
        places = [p for p in range(2, len(tokens) + 1) if p < len(branch)]
        lengths = {place: match_length(branch, place) for place in places}
        longest = max(lengths.values(), default=0)
        if longest < MATCH_LENGTHS[0]:
            assert draft is None
            return
        # all of them are few enough to be looked at
        assert len(places) < 2 * PLACES_MAX + 30
        longest = min(longest, MATCH_LENGTHS[-1])
        best = [p for p in places if min(lengths[p], MATCH_LENGTHS[-1]) == longest]
        copied = list(branch)
        for _ in range(count):
            copied.append(copied[max(best) + len(copied) - len(branch)])
        if len(places) <= PLACES_MAX:
            assert list(draft.tokens) == copied[len(branch) :]
        assert len(draft.tokens) == count


class TestBounds:
    def test_a_long_prompt_is_indexed_bit_by_bit(self):
        tokens = [*range(3 * INDEX_STEP_TOKENS), INDEX_STEP_TOKENS + 5, INDEX_STEP_TOKENS + 6]
        lookup = lookup_of(tokens)
        found = [lookup.source(tokens) for _ in range(4)]
        assert found == [None, "lookup:2", "lookup:2", "lookup:2"]

    async def test_old_places_are_forgotten_and_late_ones_found(self):
        tokens = list(range(150_000))
        lookup = lookup_of(tokens)
        for _ in range(150_000 // INDEX_STEP_TOKENS + 1):
            lookup.source(tokens)
        assert (await lookup.propose([*tokens, 140_000, 140_001], 1)).tokens == (140_002,)
        assert await lookup.propose([*tokens, 10, 11], 1) is None

    def test_the_commonest_pair_is_no_trap(self):
        tokens = [1] * 20_000
        lookup = lookup_of(tokens)
        for _ in range(4):
            lookup.source(tokens)
        branch = Counted([*tokens, 2, 1, 1])
        lookup.source(branch)
        assert branch.reads < 3 * PLACES_MAX * MATCH_LENGTHS[-1]
