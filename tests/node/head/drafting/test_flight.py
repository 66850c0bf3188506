"""The flight: whatever is drafted, sent and received in what order, the tokens are the model's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.head.drafting.base import Draft
from node.head.drafting.flight import Flight, Funding, Trial
from protocol.errors import LocalProtocolError

PROMPT = [3, 1, 4]


def model(rows, vocabulary=3, salt=0):
    """The token behind these rows: depends on all of them, and is no stranger to a drafter."""
    return hash((tuple(rows), salt)) % vocabulary


def plain(prompt, max_tokens, eos, salt=0):
    """The answer, one token at a time."""
    tokens = []
    while len(tokens) < max_tokens and not (tokens and tokens[-1] in eos):
        tokens.append(model([*prompt, *tokens], salt=salt))
    return tokens


class Hops:
    """Rows as the hops have them, and results on their way: a step says what it would draw."""

    def __init__(self, prompt, salt):
        self.rows = list(prompt)
        self.salt = salt
        self.results = []

    def send(self, position, tokens):
        assert position == len(self.rows)
        self.rows += tokens
        first = position + 1
        draws = [
            model(self.rows[:end], salt=self.salt) for end in range(first, first + len(tokens))
        ]
        self.results.append(draws)

    def truncate(self, position):
        del self.rows[position:]
        self.results.clear()


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 40), st.integers(0, 1000), st.sampled_from([frozenset(), {2}]))
def test_any_drafts_and_any_interleaving_yield_the_tokens_of_plain_decoding(
    data, max_tokens, salt, eos
):
    flight = Flight(PROMPT, max_tokens=max_tokens, eos=eos)
    hops = Hops(PROMPT, salt)
    answer = []

    def take(draws, *, fed_on=False):
        verdict = flight.accept(draws, fed_on=fed_on)
        answer.extend(verdict.tokens)
        assert flight.branch[: flight.confirmed] == [*PROMPT, *answer]
        if verdict.truncate_to is not None:
            hops.truncate(verdict.truncate_to)
        assert flight.position == len(hops.rows) or flight.is_over

    take([model(PROMPT, salt=salt)])
    while not flight.is_over:
        assert flight.is_waiting == bool(hops.results)
        actions = ["receive"] if flight.is_waiting else ["send", "loop"]
        if flight.is_waiting and flight.room and not flight.is_looping:
            actions.append("send")
        action = data.draw(st.sampled_from(actions))
        if action == "send":
            count = data.draw(st.integers(1 if flight.is_waiting else 0, 5))
            right = []
            for _ in range(count):
                token = model([*flight.branch, *right], salt=salt)
                right.append(token if data.draw(st.integers(0, 3)) else (token + 1) % 3)
            draft = flight.fit(Draft(tuple(right), "test"))
            if flight.is_waiting and not draft.tokens:
                continue
            hops.send(flight.position, flight.send(draft))
        elif action == "loop":
            hops.send(flight.position, flight.send(loop=1))
        else:
            draws = hops.results.pop(0)
            fed_on = (
                flight.is_looping
                and draws[0] not in eos
                and flight.remaining > 1
                and data.draw(st.booleans())
            )
            if fed_on:
                hops.send(len(hops.rows), draws)
            take(draws, fed_on=fed_on)
        assert len(hops.rows) <= max(len(PROMPT) + max_tokens - 1, len(PROMPT))
    assert answer == plain(PROMPT, max_tokens, eos, salt)


def begun(*, max_tokens=20, eos=frozenset(), **settings):
    """A flight whose first token is there."""
    flight = Flight(PROMPT, max_tokens=max_tokens, eos=eos, **settings)
    flight.accept([7])
    return flight


class TestAccept:
    def test_a_draft_that_holds_confirms_all_of_it_and_the_token_behind(self):
        flight = begun()
        assert flight.send(Draft((8, 9), "s")) == [7, 8, 9]
        verdict = flight.accept([8, 9, 10])
        assert verdict.tokens == (8, 9, 10)
        assert verdict.trials == (Trial("s", held=True), Trial("s", held=True))
        assert verdict.truncate_to is None
        assert flight.send() == [10]

    def test_a_wrong_token_gives_the_true_one_and_voids_what_stands_on_it(self):
        flight = begun()
        flight.send(Draft((8, 9), "s"))
        flight.send(Draft((1, 2), "t"))
        verdict = flight.accept([8, 5, 6])
        assert verdict.tokens == (8, 5)
        assert verdict.trials == (Trial("s", held=True), Trial("s", held=False))
        assert verdict.truncate_to == flight.position == len(PROMPT) + 2
        assert not flight.is_waiting
        assert flight.send() == [5]

    def test_a_further_draft_is_put_to_the_test_by_the_step_before_it(self):
        flight = begun()
        flight.send(Draft((8,), "s"))
        assert flight.send(Draft((9, 1), "t")) == [9, 1]
        verdict = flight.accept([8, 9])
        assert verdict.tokens == (8, 9)
        assert verdict.trials == (Trial("s", held=True), Trial("t", held=True))
        assert flight.is_waiting
        assert list(flight.sources) == ["t"]
        assert flight.accept([1, 2]).tokens == (1, 2)

    def test_nothing_is_confirmed_behind_an_end(self):
        flight = begun(eos={9})
        flight.send(Draft((8,), "s"))
        assert flight.accept([8, 9]).tokens == (8, 9)
        assert flight.is_over

    def test_a_looped_token_is_a_row_already(self):
        flight = begun()
        flight.send(loop=2)
        flight.accept([8], fed_on=True)
        assert flight.is_looping
        assert flight.is_waiting
        flight.accept([9], fed_on=False)
        assert flight.send() == [9]


class TestBounds:
    def test_no_row_is_sent_whose_draw_nobody_could_use(self):
        flight = begun(max_tokens=4)
        draft = flight.fit(Draft((1, 2, 3, 4, 5), "s"))
        assert draft.tokens == (1, 2)
        flight.send(draft)
        assert flight.room == 0

    def test_drafts_stop_before_a_token_that_ends_the_answer(self):
        assert begun(eos={9}).fit(Draft((1, 9, 2), "s")).tokens == (1,)

    def test_rows_that_ran_in_vain_are_counted_against_those_to_spare(self):
        flight = begun(spare_rows=5)
        assert flight.room == 5
        flight.send(flight.fit(Draft((1, 2, 3), "s")))
        assert flight.room == 2
        flight.accept([1, 8, 8, 8])
        assert flight.room == 3
        flight.send(flight.fit(Draft((1, 2, 3, 4), "s")))
        flight.accept([8, 8, 8, 8])
        assert flight.room == 0

    def test_neither_drafts_nor_a_loop_go_beyond_what_is_paid_for(self):
        flight = begun(max_tokens=50, spare_rows=30)
        rows = len(flight.branch)
        flight.fund(Funding(rows + 4, 40))
        assert flight.room == 4
        # the row that is sent first, and three that the last hop feeds
        assert flight.loop_tokens == rows + 4 - flight.position
        flight.fund(Funding(flight.position, 40))
        assert (flight.room, flight.loop_tokens) == (0, 0)
        flight.fund(Funding(None, None))
        assert flight.loop_tokens == flight.remaining

    def test_nothing_is_sent_into_a_loop(self):
        flight = begun()
        flight.send(loop=1)
        with pytest.raises(LocalProtocolError):
            flight.send(Draft((1,), "s"))

    def test_a_step_has_rows(self):
        flight = begun()
        flight.send()
        with pytest.raises(LocalProtocolError):
            flight.send()
