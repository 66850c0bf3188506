"""A marketplace that has seen everything once: every table has rows, each written as in life.

Money comes in through the fake Stripe and goes out through it; what no flow reaches in minutes
(a raised alarm, an allowed link) is written by the function that writes it in life.
"""

import secrets

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.checkpoint import split_note
from ledger.cosignature import cosign
from ledger.cosignatures import store_cosignature
from ledger.leaf import BalancesLeaf
from ledger.log import Log
from marketplace.machines import service as binding
from marketplace.payments.reconciling.repository import ReconcilingRepository
from marketplace.payouts import recipients
from marketplace.payouts.repository import PayoutRepository
from marketplace.standing import service as standing
from marketplace.users.passwords import Passwords
from protocol.identity import KeyPair
from protocol.money import Rates
from protocol.route import Span
from tests.marketplace.disputes.test_disputes import disputes_of, lying, rule, state
from tests.marketplace.machines.test_devices import Device, approve
from tests.marketplace.operations.test_operations import asked, decided, operator, wish
from tests.marketplace.payments.test_stripe_cards import choose, save_card
from tests.marketplace.payments.test_stripe_refunds import ask
from tests.marketplace.users.people import somebody
from tests.marketplace.world import DOLLAR, Buyer, Provider, manifest

__all__ = ["fill"]

DAY_S = 24 * 3600
RATES = Rates(200_000_000, 600_000_000, 1_000)
"""Dear enough for a payout after a few answers."""


async def fill(shop) -> None:
    """Everything that can happen at a marketplace, once."""
    world = shop.world
    object.__setattr__(world.market, "passwords", Passwords(memory_kib=1024))
    shop.stripe.fund(500_000)
    ann = await people(shop)
    owner, buyer = await world.buyer(), await world.buyer()
    await money_in(shop, buyer)
    providers = await machines(shop, ann, owner)
    await sessions(shop, buyer, providers)
    signed(world, providers[0].key)
    await money_out(shop, owner, buyer)
    await operators(shop, buyer)
    await money_back(shop, buyer)
    await sessions(shop, buyer, providers, more=True)
    signed(world, providers[0].key)
    shop.world.worker.do("note")


async def people(shop):
    """Somebody with an authenticator, an invitation that waits, and somebody who was refused."""
    ann = await somebody(shop.world)
    await ann.enrol()
    assert (await ann.ask("POST", "/v1/members", {"email": "bob@example.com"})).status_code == 202
    assert (await ann.sign_in()).status_code == 401
    return ann


async def money_in(shop, buyer: Buyer) -> None:
    """Top-ups by page and by saved card, and one that nobody paid."""
    for _ in range(2):
        await shop.top_up(buyer, 20 * DOLLAR)
    await save_card(shop, buyer)
    await choose(shop, buyer, threshold_nanos=1_000 * DOLLAR)
    assert await shop.work("recharge") == 1
    await shop.hear()
    assert (await shop.open(buyer)).status_code == 200
    await shop.work("reconcile")


async def machines(shop, ann, owner: Buyer) -> list[Provider]:
    """Three that sell, one of them the owner's, and one that waits for a person."""
    world = shop.world
    world.providers = providers = [Provider(Span(at, at + 4), rates=RATES) for at in (0, 4, 8)]
    waiting, mine = Device(world), Device(world, providers[0].key)
    await waiting.begin()
    await mine.begin()
    assert (await approve(ann, mine)).status_code == 200
    with world.market.database.transaction() as session:
        binding.bind(
            session, providers[1].peer, owner.account_id, "box",
            bound_by="key:test", now_s=world.clock.now,
        )  # fmt: skip
    await world.register(manifest())
    await world.publish(manifest(), *providers)
    return providers


async def sessions(shop, buyer: Buyer, providers, *, more: bool = False) -> None:
    """Settled, disputed and ruled, contradicted, repaired, open, and one whose leases lapsed."""
    world = shop.world
    body = {"name": "k", "spend_limit_nanos": 90 * DOLLAR, "spend_reset": "month"}
    answer = await world.http.post("/v1/keys", json=body, headers=buyer.headers)
    key = answer.json()
    limited = Buyer(buyer.account_id, key["api_key"], key["key_id"])
    await world.publish(manifest(), *providers)
    for lies in (False, True):
        await settled(world, limited, providers, lies=lies)
    (dispute,) = [d for d in await disputes_of(world, buyer) if d["state"] == "open"]
    assert (await state(world, dispute, providers[1])).status_code == 201
    if not more:
        rule(world, dispute, loser=1)
    spare = Provider(Span(4, 8), rates=RATES)
    await world.publish(manifest(), spare)
    repaired = await world.lease(limited, (await world.quote(limited)).json())
    deny = [providers[1].peer]
    assert (await world.replace(limited, repaired, deny=deny)).status_code == 200
    twice = await world.lease(limited, (await world.quote(limited)).json())
    for output in (5, 6):
        receipt = twice.receipt(twice.leases[0], providers[0], output=output, final=False)
        await world.hand_in(providers[0], receipt)
    assert (await world.quote(limited)).status_code == 200


async def settled(world, buyer, providers, *, lies: bool) -> None:
    paid = await world.lease(buyer, (await world.quote(buyer)).json())
    for index, (lease, provider) in enumerate(zip(paid.leases, providers, strict=True)):
        make = lying if lies and index == 1 else paid.receipt
        receipt = make(paid, lease, provider) if make is lying else make(lease, provider)
        await world.hand_in(provider, receipt)
    await world.close(buyer, paid)
    world.worker.do("settle")
    world.worker.do("settle-budgets")


def signed(world, witness: KeyPair) -> None:
    """A balance tree, a checkpoint, and a witness's line under it; enough entries for a tile."""
    world.pass_time(3600)
    world.worker.do("balances")
    now_s = world.clock.now
    with world.market.database.transaction() as session:
        Log(session).append([BalancesLeaf(bytes(32), 0, 0, now_s)] * 130)
    world.worker.do("publish")
    with world.market.database.transaction() as session:
        latest = Log(session).latest()
        line = cosign(split_note(latest.note)[0], witness, now_s)
        assert store_cosignature(session, latest.size, line, witness=witness.peer_id, now_s=now_s)


async def money_out(shop, owner: Buyer, buyer: Buyer) -> None:
    """Earnings grow old, are released in part, and go to a bank by request."""
    world = shop.world
    who = {"email": "p@pool.example", "country": "DE"}
    answer = await world.http.post("/v1/payouts/recipient", json=who, headers=owner.headers)
    assert answer.status_code == 200, answer.text
    recipient = answer.json()["recipient"]
    shop.stripe.onboard(recipient)
    recipients.refresh(world.market, owner.account_id)
    shop.pass_time(17 * DAY_S)
    await shop.work("release")
    give(world, owner.account_id, 40 * DOLLAR)
    body = {"payout_id": secrets.token_hex(16)}
    made = await world.http.post("/v1/payouts", json=body, headers=owner.headers)
    assert made.status_code == 200, made.text
    assert await shop.work("payouts_send") == 1
    terms = {"schedule": "manual", "minimum_cents": 2_000}
    told = await world.http.put("/v1/payouts/schedule", json=terms, headers=owner.headers)
    assert told.status_code == 200, told.text
    with world.market.database.transaction() as session:
        now_s = world.clock.now
        PayoutRepository(session).raise_alarm(
            bytes.fromhex(body["payout_id"]), "looked_at", "by hand", attempt=1, now_s=now_s
        )
        for account in (owner, buyer):
            standing.note_fingerprint(session, account.account_id, "ip", "192.0.2.1", now_s=now_s)
        standing.verify(session, owner.account_id, now_s=now_s)
        standing.allow_link(
            session, owner.account_id, buyer.account_id, approval_id="a1", now_s=now_s
        )


def give(world, account_id, nanos) -> None:
    with world.market.database.transaction() as session:
        Book(session).transfer(
            AccountRef(AccountCode.GOODWILL),
            AccountRef(AccountCode.PROVIDER_PAYABLE, account_id),
            nanos,
            code="goodwill",
            ref=secrets.token_hex(8),
            now_s=world.clock.now,
        )


async def operators(shop, buyer: Buyer) -> None:
    """Two people freeze an account together; another wish waits."""
    first, second = [await operator(shop.world, f"{name}@example.com") for name in ("cay", "dan")]
    body = wish("freeze_account", buyer.account_id)
    await asked(first, body)
    assert (await decided(second, body)).status_code == 200
    lift = wish("unfreeze_account", buyer.account_id)
    await asked(second, lift)
    assert (await decided(first, lift)).status_code == 200
    await asked(first, wish("goodwill", buyer.account_id, amount_nanos=5))


async def money_back(shop, buyer: Buyer) -> None:
    """One refund, one chargeback, and what Stripe says of all of it."""
    topups = [t["metadata"]["topup_id"] for t in shop.stripe.all("payment_intent")]
    assert (await ask(shop, buyer, topups[0])).status_code == 202
    assert await shop.work("refunds") == 1
    await shop.hear()
    assert (await ask(shop, buyer, topups[0], DOLLAR)).status_code == 202
    dispute = shop.stripe.dispute(shop.payment_of(topups[1])["id"], 100)
    await shop.hear()
    shop.stripe.close_dispute(dispute, won=True)
    await shop.hear()
    await shop.work("reconcile")
    with shop.world.market.database.transaction() as session:
        found, now_s = ReconcilingRepository(session), shop.world.clock.now
        found.find("balance", "by hand", 1, 2, now_s)
        assert found.resolve("balance", "by hand", now_s)
