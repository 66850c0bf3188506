"""The tables of a session's life: the drawing, ways out of every state, and a deadline for each."""

import re
from collections.abc import Iterator

import pytest

from protocol import session
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.session import TRANSITIONS, Event, SessionState, advance

ROLES = sorted(TRANSITIONS)
OVER = {SessionState.CLOSED, SessionState.FAILED}

DEADLINES = {
    ("head", SessionState.OPENING): ("OPEN_TIMEOUT_S",),
    ("head", SessionState.READY): ("STEP_TIMEOUT_S",),
    ("head", SessionState.REPAIRING): ("REPAIR_TIMEOUT_S",),
    ("head", SessionState.CLOSING): ("CLOSE_TIMEOUT_S",),
    ("hop", SessionState.OPENING): ("OPEN_TIMEOUT_S",),
    ("hop", SessionState.READY): ("IDLE_TIMEOUT_S", "UNPAID_TIMEOUT_S"),
    ("hop", SessionState.BROKEN): ("REPAIR_WAIT_S",),
    ("hop", SessionState.REOPENING): ("OPEN_TIMEOUT_S",),
    ("hop", SessionState.CLOSING): ("CLOSE_TIMEOUT_S",),
}
"""What ends a state that nothing else ends."""


def states_of(role: str) -> set[SessionState]:
    return {state for state, _ in TRANSITIONS[role]} | set(TRANSITIONS[role].values())


def drawing() -> dict[str, str]:
    """The lines of the docstring's drawing, by the role they begin with."""
    drawn: dict[str, str] = {}
    role = ""
    for line in (session.__doc__ or "").split("\n\n")[1].splitlines():
        word = line[4:8].strip()
        role = word or role
        drawn[role] = drawn.get(role, "") + line[8:] + "\n"
    return drawn


def named(text: str) -> set[SessionState]:
    words = re.findall(r"[A-Z]{5,}", text)
    return {SessionState(word.lower()) for word in words if word.lower() in set(SessionState)}


def arrows(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of states that one line joins by an arrow."""
    for line in text.splitlines():
        for found in re.finditer(r"\b([A-Z]{5,})\s+─+[^A-Z►]*(?:CLOSE)?[^A-Z►]*─*►\s+", line):
            if following := re.match(r"[A-Z]{5,}", line[found.end() :]):
                yield found[1].lower(), following[0].lower()


@pytest.mark.parametrize("role", ROLES)
def test_the_drawing_names_the_states_of_the_table(role):
    drawn = drawing()
    assert named(drawn[role]) | named(drawn["both"]) == states_of(role)


@pytest.mark.parametrize("role", ROLES)
def test_every_arrow_that_is_drawn_is_in_the_table(role):
    moves = {(str(state), str(after)) for (state, _), after in TRANSITIONS[role].items()}
    drawn = set(arrows(drawing()[role]))
    assert len(drawn) >= 3
    assert drawn <= moves


@pytest.mark.parametrize("role", ROLES)
def test_every_state_can_be_reached_and_leads_to_an_end(role):
    moves = [(state, after) for (state, _), after in TRANSITIONS[role].items()]

    def reached(start: SessionState) -> set[SessionState]:
        found = {start}
        while more := {after for state, after in moves if state in found} - found:
            found |= more
        return found

    assert reached(SessionState.OPENING) == states_of(role)
    for state in states_of(role) - OVER:
        assert reached(state) >= OVER


@pytest.mark.parametrize("role", ROLES)
def test_every_state_fails_and_closes_and_what_is_over_stays_so(role):
    for state in states_of(role):
        assert advance(role, state, Event.FAIL) in OVER
        assert advance(role, state, Event.CLOSE) in OVER | {SessionState.CLOSING}
    for (state, _), after in TRANSITIONS[role].items():
        assert state not in OVER or after is state


@pytest.mark.parametrize("role", ROLES)
def test_every_state_that_waits_has_a_deadline(role):
    waiting = states_of(role) - OVER
    assert waiting == {state for of, state in DEADLINES if of == role}
    for state in waiting:
        for name in DEADLINES[role, state]:
            assert name in session.__all__
            assert 0 < getattr(session, name) < float("inf")


def test_who_waits_for_another_waits_longer_than_that_other_does():
    assert session.REPAIR_WAIT_S > session.REPAIR_TIMEOUT_S, "rows outlast the repair"
    assert session.REPAIR_TIMEOUT_S > session.OPEN_TIMEOUT_S, "a repair opens hops"
    assert session.IDLE_TIMEOUT_S > session.STEP_TIMEOUT_S, "a hop waits for a head that waits"
    assert session.IDLE_TIMEOUT_S > session.REPAIR_TIMEOUT_S


def test_a_hop_takes_a_next_epoch_from_every_state_before_the_end():
    """It may be in any of them when the head finds that another hop is lost."""
    for state in states_of("hop") - OVER - {SessionState.CLOSING}:
        assert advance("hop", state, Event.REOPEN) is SessionState.REOPENING


def test_a_hop_that_has_no_neighbour_drops_rows_and_takes_money():
    for state in (SessionState.BROKEN, SessionState.REOPENING):
        for event in (Event.STEP, Event.REPLAY, Event.TRUNCATE, Event.RECEIPT):
            assert advance("hop", state, event) is state
        assert advance("hop", state, Event.LOST) is SessionState.BROKEN


@pytest.mark.parametrize(
    ("role", "state", "event"),
    [
        ("head", SessionState.REPAIRING, Event.STEP),
        ("head", SessionState.REPAIRING, Event.TRUNCATE),
        ("head", SessionState.REPAIRING, Event.RESULT),
        ("head", SessionState.OPENING, Event.REOPEN),
        ("head", SessionState.CLOSING, Event.REOPEN),
        ("hop", SessionState.CLOSING, Event.REOPEN),
        ("hop", SessionState.CLOSED, Event.REOPEN),
        ("hop", SessionState.OPENING, Event.STEP),
        ("hop", SessionState.BROKEN, Event.OPENED),
    ],
)
def test_what_a_table_does_not_list_is_an_error_of_who_did_it(role, state, event):
    with pytest.raises(LocalProtocolError, match=str(event)):
        advance(role, state, event, ours=True)
    with pytest.raises(RemoteProtocolError, match=str(event)):
        advance(role, state, event)
