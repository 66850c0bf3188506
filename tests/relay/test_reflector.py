from dataclasses import replace

import pytest

from protocol.datagram import Reflect, Reflected
from relay.reflector import Reflection, Reflector
from relay.resources import ReflectorLimits
from relay.usage import DropReason

LIMITS = ReflectorLimits()
ASK = Reflect(b"12345678").encode()
ASK_OTHER = Reflect(b"12345678", from_other_port=True).encode()


def reflector(*, has_other_port: bool = True, **limits: float) -> Reflector:
    return Reflector(replace(LIMITS, **limits), has_other_port=has_other_port, now=0)


def test_it_says_where_the_question_came_from():
    answer = reflector().answer(ASK, ("203.0.113.5", 4001), 0)
    assert isinstance(answer, Reflection)
    assert not answer.is_from_other_port
    assert Reflected.decode(answer.data) == Reflected(
        b"12345678", "203.0.113.5", 4001, has_other_port=True
    )


@pytest.mark.parametrize(
    ("source", "host"),
    [
        (("::ffff:203.0.113.5", 4001, 0, 0), "203.0.113.5"),
        (("2001:db8::5", 4001, 0, 0), "2001:db8::5"),
        (("fe80::5%eth0", 4001, 0, 2), "fe80::5"),
    ],
)
def test_a_dual_stack_sockets_names_become_plain_addresses(source, host):
    answer = reflector().answer(ASK, source, 0)
    assert isinstance(answer, Reflection)
    assert Reflected.decode(answer.data).host == host


def test_asked_for_the_other_port_it_answers_from_there_if_there_is_one():
    answer = reflector().answer(ASK_OTHER, ("203.0.113.5", 1), 0)
    assert isinstance(answer, Reflection)
    assert answer.is_from_other_port
    assert Reflected.decode(answer.data).from_other_port
    answer = reflector(has_other_port=False).answer(ASK_OTHER, ("203.0.113.5", 1), 0)
    assert isinstance(answer, Reflection)
    assert not answer.is_from_other_port
    assert not Reflected.decode(answer.data).has_other_port


def test_no_answer_is_longer_than_its_question():
    for source in (("203.0.113.255", 65_535), ("2001:db8:1:2:3:4:5:6", 65_535, 0, 0)):
        answer = reflector().answer(ASK_OTHER, source, 0)
        assert isinstance(answer, Reflection)
        assert len(answer.data) <= len(ASK_OTHER)


@pytest.mark.parametrize("data", [ASK[:-1], ASK + b"\0", ASK[:9]])
def test_a_question_of_another_length_is_malformed(data):
    assert reflector().answer(data, ("203.0.113.5", 1), 0) is DropReason.MALFORMED


def test_a_host_is_answered_so_often_whatever_its_ports():
    asked = reflector(answers_per_host_per_s=1, answers_per_host_burst=2)
    answers = [asked.answer(ASK, ("203.0.113.5", port), 0) for port in range(1, 4)]
    assert [isinstance(each, Reflection) for each in answers] == [True, True, False]
    assert isinstance(asked.answer(ASK, ("203.0.113.6", 1), 0), Reflection)
    assert isinstance(asked.answer(ASK, ("203.0.113.5", 1), 1), Reflection)


def test_a_whole_ipv6_site_is_one_host():
    asked = reflector(answers_per_host_burst=2)
    for index in (1, 2):
        asked.answer(ASK, (f"2001:db8::{index}", 1, 0, 0), 0)
    assert asked.answer(ASK, ("2001:db8::3", 1, 0, 0), 0) is DropReason.REFLECT_RATE
    assert isinstance(asked.answer(ASK, ("2001:db8:0:1::3", 1, 0, 0), 0), Reflection)


def test_all_together_are_bounded_and_one_that_floods_does_not_use_it_up():
    asked = reflector(answers_per_s=5, answers_per_host_burst=2)
    for _ in range(100):
        asked.answer(ASK, ("203.0.113.1", 1), 0)
    answers = [asked.answer(ASK, (f"203.0.113.{host}", 1), 0) for host in range(2, 10)]
    assert sum(isinstance(each, Reflection) for each in answers) == 3
    assert asked.answered == 5


def test_the_table_of_hosts_is_bounded():
    asked = reflector(hosts_max=10)
    for index in range(100):
        asked.answer(ASK, (f"203.0.113.{index}", 1), 0)
    assert len(asked) == 10
