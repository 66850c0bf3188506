"""A node that its household has stopped takes no new session, and keeps those it has."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from node.app.household import Household, HouseholdAdmission
from node.config import Home
from node.household.limits import Limits, save_limits
from node.household.policy import PAUSED_FOR_GOOD
from protocol.errors import ErrorCode, SessionError
from transport.congestion.share import UploadShare

NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)


class AllAreWelcome:
    """Admits everybody, and counts."""

    def __init__(self) -> None:
        self.admitted = self.readmitted = 0

    def admit(self, request, head):
        self.admitted += 1

    def readmit(self, request, head, lease):
        self.readmitted += 1
        return lease


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def household(home, traffic=lambda: 0, share=None) -> Household:
    return Household(home, share or UploadShare(), traffic, now=lambda: NOON)


def test_a_paused_node_refuses_new_sessions_alone(home):
    save_limits(home.path, Limits(paused_until_s=PAUSED_FOR_GOOD))
    kept = household(home)
    kept.look()
    inner = AllAreWelcome()
    admission = HouseholdAdmission(inner, kept)
    with pytest.raises(SessionError) as refused:
        admission.admit(None, None)
    assert refused.value.code is ErrorCode.NO_CAPACITY
    admission.readmit(None, None, None)
    assert (inner.admitted, inner.readmitted) == (0, 1)
    save_limits(home.path, Limits())
    kept.look()
    admission.admit(None, None)
    assert inner.admitted == 1


def test_the_upload_share_follows_the_file(home):
    share = UploadShare()
    kept = household(home, share=share)
    kept.look()
    share.spend(100.0, 10**9)
    assert share.release_at() == 0.0
    save_limits(home.path, Limits(upload_bytes_s=1_000_000))
    kept.look()
    share.spend(100.0, 1_000_000)
    assert share.release_at() == pytest.approx(101.0, abs=0.1)


def test_the_month_is_counted_to_its_cap(home):
    save_limits(home.path, Limits(data_cap_bytes=1 << 30))
    traffic = [0]
    kept = household(home, lambda: traffic[0])
    assert kept.look().takes_work
    traffic[0] = 1 << 30
    assert not kept.look().takes_work
    kept.close()
    # a restart does not forget
    assert not household(home).look().takes_work


def test_a_damaged_file_leaves_the_limits_as_they_were(home, caplog):
    save_limits(home.path, Limits(paused_until_s=PAUSED_FOR_GOOD))
    kept = household(home)
    kept.look()
    (home.path / "limits.json").write_text("{")
    assert not kept.look().takes_work
    assert "damaged" in caplog.text


async def test_changes_are_told_and_followed(home, monkeypatch):
    monkeypatch.setattr("node.app.household.LOOK_S", 0.01)
    kept = household(home)
    kept.look()
    told, followed = [], asyncio.Queue()

    async def on_change(decision):
        followed.put_nowait(decision.takes_work)

    task = asyncio.create_task(kept.run(on_change, told.append))
    limits = Limits(paused_until_s=PAUSED_FOR_GOOD)
    save_limits(home.path, limits)
    assert await asyncio.wait_for(followed.get(), 5) is False
    save_limits(home.path, replace(limits, paused_until_s=0))
    assert await asyncio.wait_for(followed.get(), 5) is True
    task.cancel()
    assert told == ["no new work: paused by hand: 'piecework resume' ends it", "taking work again"]
