import logging

from protocol.relay_messages import RefusalCode
from relay.errors import RequestRefused, limit_reached
from relay.refusals import LOG_INTERVAL_S, Refusals


def test_each_reason_is_logged_now_and_then_and_counted_always(caplog):
    refusals = Refusals()
    with caplog.at_level(logging.WARNING):
        for step in range(1000):
            refusals.note(limit_reached("circuits.reservations_max", 5), now=step / 1000)
            refusals.note(limit_reached("circuits.circuits_max", 7), now=step / 1000)
        assert len(caplog.records) == 2
        assert "circuits.reservations_max (5) is reached" in caplog.text
        refusals.note(limit_reached("circuits.reservations_max", 5), now=LOG_INTERVAL_S)
    assert "999 more" in caplog.records[-1].getMessage()
    assert refusals.counts == {"circuits.reservations_max": 1001, "circuits.circuits_max": 1000}


def test_what_a_stranger_sent_does_not_fill_the_log(caplog):
    refused = RequestRefused("malformed", "x" * 100_000, RefusalCode.MALFORMED_MESSAGE)
    with caplog.at_level(logging.WARNING):
        Refusals().note(refused, now=0.0)
    assert len(caplog.records[0].getMessage()) < 300
