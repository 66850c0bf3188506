"""A campaign: start everything, kill it piece by piece while receipts come in, let it finish, and
prove the books against the journals."""

import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ledger_kills.checks import Checks
from benchmarks.ledger_kills.oracle import prove
from benchmarks.ledger_kills.place import Place
from benchmarks.ledger_kills.report import Proof, Report
from benchmarks.ledger_kills.stage import NETWORK, Stage, start_stage
from benchmarks.ledger_kills.supervisor import Supervisor

__all__ = ["Campaign", "run_campaign"]

DRAIN_S = 900.0
"""After the last kill: what is leased is handed in, closed, settled and paid out."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is asked of one run."""

    engine: str
    """`sqlite` or `postgresql`."""
    kills: int = 300
    receipts: int = 1_000_000
    seed: int = 1
    hops: int = 8
    loads: int = 2
    cohort_sessions: int = 250
    """Those of three cohorts are open together, and end well within their leases' ten minutes."""
    receipts_per_lease: int = 40
    buyers: int = 8
    payouts: int = 200
    gateways: int = 1
    """Real ones, before two real providers; 0: only the stand-ins."""
    only: tuple[str, ...] = ()
    """Kinds of process that are killed; all where empty."""
    patient: bool = True
    """Whether the end waits for payouts without an answer: their deadline is two minutes."""
    keep: bool = False
    """Leave the directory, with every log and journal."""
    quiet: bool = False


def run_campaign(campaign: Campaign) -> Report:
    """Raises RuntimeError where a process ends that nobody killed."""
    report = Report(campaign.engine, campaign.seed)
    with _directory(campaign) as root:
        report.directory = root if campaign.keep else None
        place = Place(root)
        stage = start_stage(campaign, place)
        rng = random.Random(campaign.seed)
        checks = Checks(stage.database_url, stage.options.market_peer, NETWORK)
        supervisor = Supervisor(stage, checks, rng, report, only=campaign.only)
        try:
            _under_fire(campaign, stage, supervisor, report)
            _drain(campaign, stage, supervisor, report)
            _check_all(campaign, stage, checks)
            report.note_checks(checks)
            report.proof = prove(place, stage.options, stage.database_url, patient=campaign.patient)
            _note_pool(stage, report.proof)
        except BaseException:
            report.note_checks(checks)
            stage.stop()
            kept = root.rename(root.with_name(f"{root.name}-kept"))
            sys.stderr.write(f"{report.table()}\nthe logs are in {kept}\n")
            raise
        finally:
            checks.close()
            stage.stop()
    return report


def _check_all(campaign: Campaign, stage: Stage, checks: Checks) -> None:
    """Every rule; what the processor says only where nothing is under way there any more."""
    market = stage.market()
    try:
        checks.full(market if campaign.patient else None)
    finally:
        market.database.close()


def _note_pool(stage: Stage, proof: Proof) -> None:
    """What only the end of the pool has seen."""
    if stage.ending is None or proof.answers is None:
        return
    proof.answers.overdue = stage.ending.overdue
    proof.answers.refused_receipts = sum(stage.ending.refused.values())
    if stage.ending.refused:
        proof.faults.append(f"receipts of real providers were refused: {stage.ending.refused}")


def _under_fire(campaign: Campaign, stage: Stage, supervisor: Supervisor, report: Report) -> None:
    """Until there are enough receipts and enough kills, spread evenly over one another."""
    started, told_at = time.monotonic(), 0.0
    while True:
        done = stage.acknowledged()
        report.receipts, report.seconds = done, time.monotonic() - started
        if done >= campaign.receipts and report.kills >= campaign.kills:
            return
        due = campaign.kills * min(1.0, done / campaign.receipts)
        supervisor.may_arm = report.kills < campaign.kills and report.kills <= due + 2
        supervisor.tend()
        if report.kills < campaign.kills and report.kills <= due:
            supervisor.strike()
        else:
            time.sleep(0.05)
        if not campaign.quiet and time.monotonic() - told_at > 5.0:
            told_at = time.monotonic()
            sys.stderr.write(f"{report.line()}\n")


def _drain(campaign: Campaign, stage: Stage, supervisor: Supervisor, report: Report) -> None:
    """No new cohorts, no more kills: everything under way comes to its end."""
    started = time.monotonic()
    supervisor.may_arm = False
    stage.place.stop.touch()
    while not stage.is_drained(patient=campaign.patient):
        supervisor.tend()
        if time.monotonic() - started > DRAIN_S:
            raise RuntimeError(f"not drained after {DRAIN_S} s: {stage.what_is_left()}")
        time.sleep(0.1)
    report.receipts = stage.acknowledged()
    report.drain_seconds = time.monotonic() - started


@contextlib.contextmanager
def _directory(campaign: Campaign) -> Iterator[Path]:
    """A short path, for PostgreSQL's socket has to fit in 107 bytes; removed if all went well."""
    root = Path(tempfile.mkdtemp(prefix="pwk-"))
    # the server of PostgreSQL runs as another user, and must get through
    root.chmod(0o711)
    yield root
    if not campaign.keep:
        shutil.rmtree(root, ignore_errors=True)
