"""Everything that runs in a campaign, and how it is started in order."""

import dataclasses
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from benchmarks.ledger_kills import setting
from benchmarks.ledger_kills.client import Client
from benchmarks.ledger_kills.ending import PoolEnd
from benchmarks.ledger_kills.payees import make_payees
from benchmarks.ledger_kills.place import Options, Place
from benchmarks.ledger_kills.pool import CREDIT_WINDOWS, WINDOW_TOKENS, Pool
from benchmarks.ledger_kills.postgres import Postgres
from benchmarks.ledger_kills.processes import Program, console_script
from marketplace.app import create_market
from marketplace.config import DATABASE_FILE, MarketConfig
from marketplace.db import Database
from marketplace.jobs import JOBS
from marketplace.market import Market

if TYPE_CHECKING:
    from benchmarks.ledger_kills.campaign import Campaign

__all__ = ["LOAD_ROLES", "NETWORK", "Stage", "start_stage"]

PAYOUT_JOBS = ("payout", "release", "held")
"""How the names of jobs begin that move money out; all others are the settlement worker's."""
NETWORK = "kills"
MODULE = "benchmarks.ledger_kills"
AT_THE_END = ("reconcile",)
"""Run by the laboratory itself: what is paid and not yet told of would be a finding on the way."""
FEE_BASIS_POINTS = 537
STOP_S = 15.0
LOAD_ROLES = ("head", "load", "payee")
"""They end by themselves, when there is nothing more to do."""
UNSETTLED = (
    "SELECT COUNT(*) FROM ledger_hold WHERE closed AND charged_nanos IS NULL AND buyer <> :buyer"
)
UNPAID = (
    "SELECT COUNT(*) FROM market_payout WHERE state IN ('draft', 'reserved', 'submitting', 'held')"
)
TOPUP_CENTS = 113
"""Several times what a buyer's sessions of a cohort cost; a new account may pay in $100 a day."""
STRIPE_KEY = "sk_test_fake"
STRIPE_SECRET = "whsec_fake"


@dataclass(slots=True)
class Stage:
    """What is running."""

    place: Place
    options: Options
    database_url: str
    programs: list[Program]
    postgres: Postgres | None
    outside: list[Program] = field(default_factory=list)
    """The outside world: never killed."""
    env: dict[str, str] = field(default_factory=dict)
    """The settings of the marketplace's programs."""
    payees: int = 0
    """Accounts that ask for payouts."""
    pool: Pool | None = None
    ending: PoolEnd | None = None

    def of(self, role: str) -> list[Program]:
        return [program for program in self.programs if program.role == role]

    def acknowledged(self) -> int:
        return self.place.acknowledged(self.options.loads)

    def is_drained(self, *, patient: bool) -> bool:
        """The head and the providers have ended, and nothing that is closed is unsettled; nor a
        payout unanswered, where one is `patient`."""
        ended = all(p.code == 0 for p in self.programs if p.role in LOAD_ROLES)
        if not ended or self._unsettled():
            return False
        if patient and self.payees and self.count(UNPAID):
            return False
        return self.ending is None or self.ending.is_over()

    def _unsettled(self) -> int:
        """Of the stand-ins; a gateway that was killed leaves sessions that end by their time."""
        buyer = self.pool.options.account_id if self.pool else ""
        return self.count(UNSETTLED, buyer=buyer)

    def count(self, query: str, **given: str) -> int:
        """What a counting query gives."""
        database = Database(self.database_url)
        try:
            with database.reading() as session:
                return int(session.execute(text(query), given).scalar_one())
        finally:
            database.close()

    def market(self) -> Market:
        """The marketplace's own parts, in this process."""
        prefix = "PIECEWORK_MARKET_"
        given: dict[str, Any] = {k.removeprefix(prefix).lower(): v for k, v in self.env.items()}
        return create_market(MarketConfig(**given))

    def what_is_left(self) -> str:
        codes = {p.name: p.code for p in self.programs if p.role in LOAD_ROLES}
        unpaid = self.count(UNPAID) if self.payees else 0
        words = f"{codes}, {self._unsettled()} holds unsettled, {unpaid} payouts open"
        return f"{words}; {self.ending.what_is_left()}" if self.ending else words

    def stop(self) -> None:
        """End everything, the database last."""
        for program in reversed([*self.programs, *self.outside]):
            program.stop(STOP_S)
        if self.postgres is not None:
            self.postgres.stop()


def start_stage(campaign: "Campaign", place: Place) -> Stage:
    """Ready for receipts when it returns."""
    logs = place.root / "logs"
    logs.mkdir()
    place.pages.mkdir()
    for hop in range(campaign.hops):
        place.spool(hop).mkdir(parents=True)
    postgres, url = _database(campaign, place)
    markets_count = 1 if postgres is None else 2
    all_ports = _free_ports(markets_count + 1 + 2 * campaign.gateways + 1)
    ports, stripe_port = all_ports[:markets_count], all_ports[markets_count]
    env = {
        "PIECEWORK_MARKET_HOME": str(place.market_home),
        "PIECEWORK_MARKET_DATABASE_URL": url,
        "PIECEWORK_MARKET_NETWORK": NETWORK,
        "PIECEWORK_MARKET_FEE_BASIS_POINTS": str(FEE_BASIS_POINTS),
        "PIECEWORK_MARKET_SETTLEMENT_WINDOW_S": "1",
        "PIECEWORK_MARKET_STRIPE_API_KEY": STRIPE_KEY,
        "PIECEWORK_MARKET_STRIPE_WEBHOOK_SECRET": STRIPE_SECRET,
        "PIECEWORK_MARKET_STRIPE_API_BASE": f"http://127.0.0.1:{stripe_port}",
        "PIECEWORK_MARKET_PUBLIC_URL": f"http://127.0.0.1:{ports[0]}",
        "PIECEWORK_MARKET_WINDOW_TOKENS": str(WINDOW_TOKENS),
        "PIECEWORK_MARKET_CREDIT_WINDOWS": str(CREDIT_WINDOWS),
    }
    markets = [
        Program(
            f"market-{number}", "market",
            [console_script("piecework-market"), "serve", "--no-jobs", "--port", str(port)],
            logs, env,
        )
        for number, port in enumerate(ports)
    ]  # fmt: skip
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
    stage = Stage(place, _options(campaign, urls), url, list(markets), postgres)
    command = [sys.executable, "-m", f"{MODULE}.outside", str(place.root), str(stripe_port)]
    stage.outside.append(Program("stripe", "outside", command, logs, env))
    stage.payees, stage.env = campaign.payouts, env
    try:
        _start(campaign, stage, env, tuple(all_ports[markets_count + 1 :]))
    except BaseException:
        stage.stop()
        raise
    return stage


def _start(
    campaign: "Campaign", stage: Stage, env: dict[str, str], pool_ports: tuple[int, ...]
) -> None:
    place, logs = stage.place, stage.place.root / "logs"
    for program in stage.outside:
        program.start()
    for market, url in zip(stage.of("market"), stage.options.markets, strict=True):
        market.start()
        # one after the other: the first makes the tables
        _wait_answers(market, url)
    stage.options = _with_buyers(stage.options, campaign.buyers)
    place.options_path.write_text(stage.options.encode())
    setting.register(stage.options)
    if campaign.payouts:
        make_payees(stage.options, place, stage.database_url, campaign.payouts)
    if campaign.gateways:
        pool = Pool.make(place, stage.options, campaign.gateways, pool_ports)
        stage.pool, stage.ending = pool, PoolEnd(pool, stage.database_url)
        stage.outside += pool.outside
        stage.programs += pool.gateways
        pool.start()
    place.stripe_faulty.touch()
    names = [job.name for job in JOBS]
    payout = [name for name in names if name.startswith(PAYOUT_JOBS)]
    settle = [name for name in names if name not in payout and name not in AT_THE_END]
    for role, jobs in (("settle", settle), ("payout", payout)):
        if jobs:
            only = [word for name in jobs for word in ("--only", name)]
            command = [console_script("piecework-market"), "work", *only]
            stage.programs.append(Program(f"{role}-0", role, command, logs, env))
    for load in range(campaign.loads):
        command = [sys.executable, "-m", f"{MODULE}.load", str(place.root), str(load)]
        stage.programs.append(Program(f"load-{load}", "load", command, logs, env))
    if campaign.payouts:
        command = [sys.executable, "-m", f"{MODULE}.payee", str(place.root)]
        stage.programs.append(Program("payee-0", "payee", command, logs, env))
    for program in stage.programs:
        if program.role not in ("market", "gateway"):
            program.start()
    _wait_offers(stage)
    command = [sys.executable, "-m", f"{MODULE}.head", str(place.root)]
    head = Program("head-0", "head", command, logs, env)
    stage.programs.append(head)
    head.start()


def _database(campaign: "Campaign", place: Place) -> tuple[Postgres | None, str]:
    if campaign.engine == "sqlite":
        return None, f"sqlite:///{place.market_home / DATABASE_FILE}"
    root = place.root / "pg"
    root.mkdir()
    root.chmod(0o711)
    postgres = Postgres(root)
    postgres.start()
    postgres.make_database()
    return postgres, postgres.url


def _options(campaign: "Campaign", urls: tuple[str, ...]) -> Options:
    return Options(
        seed=campaign.seed,
        markets=urls,
        market_peer="",
        hops=campaign.hops,
        loads=campaign.loads,
        cohort_sessions=campaign.cohort_sessions,
        receipts_per_lease=campaign.receipts_per_lease,
        receipts=campaign.receipts,
        fee_basis_points=FEE_BASIS_POINTS,
        topup_cents=TOPUP_CENTS,
        buyers=(),
    )


def _with_buyers(options: Options, count: int) -> Options:
    with Client(options.markets) as client:
        terms = client.send("GET", "/v1/market").data
    return dataclasses.replace(
        options,
        buyers=setting.make_buyers(options.markets, count),
        market_peer=terms["peer_id"],
    )


def _wait_answers(market: Program, url: str) -> None:
    client = Client((url,))
    while not client.answers("/healthz"):
        if market.code is not None:
            raise RuntimeError(f"{market.name} ended:\n{market.tail()}")
        time.sleep(0.05)


def _wait_offers(stage: Stage, timeout_s: float = 60.0) -> None:
    """Every marketplace knows every provider."""
    give_up_at = time.monotonic() + timeout_s
    for url in stage.options.markets:
        while _offers_at(url) < stage.options.hops:
            for load in stage.of("load"):
                if load.code is not None:
                    raise RuntimeError(f"{load.name} ended:\n{load.tail()}")
            if time.monotonic() > give_up_at:
                raise RuntimeError("the providers' offers did not come")
            time.sleep(0.1)


def _offers_at(url: str) -> int:
    with Client((url,)) as client:
        return len(client.send("GET", "/v1/offers").data["data"])


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
