"""The pace on a ring of three hops, in virtual time: as fast as the closed form, never a loss.

The ring: three hops of 13.3 ms, four links that take 90 ms together, 8 KiB a row on the links: the
loop of 130 ms over which the closed form
(1 - α^(k+1)) / (1 - α) / (L + k t_draft + (k + 1) row) was worked out.
"""

import re
import zlib
from pathlib import Path

import pytest

from node.head.drafting.lookup import PromptLookup
from node.head.drafting.pace import DRAFT_MAX
from tests.node.head.drafting.synthetic import SyntheticDrafter, measure

ROOT = Path(__file__).parents[4]

LOOP_S = 0.130
DRAFT_TOKEN_S = 0.003
ROW_COMPUTE_S = 0.00013

WAN = {"link_s": 0.0225, "hop_s": 0.0133, "row_hop_s": ROW_COMPUTE_S}
LINKS = {"100 Mbit/s": {**WAN, "row_link_s": 0.00049}, "20 Mbit/s": {**WAN, "row_link_s": 0.00246}}
LONG_WAN = {"link_s": 0.030, "hop_s": 0.0055, "row_link_s": 0.0007, "jitter_s": 0.004}
LAN = {"link_s": 0.0002, "hop_s": 0.010, "row_hop_s": 0.002, "row_link_s": 0.0001}
ONE_HOP = {**LAN, "hops": 1, "hop_s": 0.030, "row_hop_s": 0.006}


def closed_form(alpha, row_link_s):
    """Tokens a second at the best k, waiting for each verdict."""
    row_s = 4 * row_link_s + 3 * ROW_COMPUTE_S
    return max(
        sum(alpha**n for n in range(k + 1)) / (LOOP_S + k * DRAFT_TOKEN_S + (k + 1) * row_s)
        for k in range(DRAFT_MAX + 1)
    )


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("alpha", [0.6, 0.8])
def test_a_draft_model_brings_what_the_closed_form_promises(alpha, link):
    ring = LINKS[link]
    rate, statistics = measure(
        ring, [lambda: SyntheticDrafter(right=alpha, token_s=DRAFT_TOKEN_S)], tokens=1000
    )
    promised = closed_form(alpha, ring["row_link_s"])
    plain, _ = measure(ring, tokens=60)
    print(f"\nα={alpha} {link}: {rate:.1f} tokens/s, closed form {promised:.1f}, none {plain:.1f},")
    print(f"{rate / plain:.2f} times, {statistics.rows / 1000:.1f} rows a token")
    # the closed form waits for each verdict; going on meanwhile makes up for learning on the way
    assert rate > 0.95 * promised
    assert rate < 1 / ((1 - alpha) * LOOP_S)
    assert statistics.rows < 4 * 1000


def test_going_on_before_the_verdict_beats_the_closed_form_on_slow_links():
    ring = LINKS["20 Mbit/s"]
    rate, _ = measure(ring, [lambda: SyntheticDrafter(right=0.8, source="lookup:24")], tokens=1000)
    assert rate > 1.15 * closed_form(0.8, ring["row_link_s"])


@pytest.mark.parametrize("ring", [LONG_WAN, LAN, ONE_HOP], ids=["wan", "lan", "one hop"])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("token_s", [0.0, 0.003, 0.060])
def test_drafts_that_seldom_hold_never_cost_two_in_a_hundred(ring, alpha, token_s):
    plain, _ = measure(ring, tokens=250)
    source = "model" if token_s else "lookup:3"
    rate, _ = measure(
        ring,
        [lambda: SyntheticDrafter(right=alpha, token_s=token_s, source=source)],
        tokens=250,
    )
    assert rate >= 0.98 * plain


@pytest.mark.parametrize("ring", [LONG_WAN, LAN], ids=["wan", "lan"])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.6])
def test_a_loop_is_used_where_drafting_does_not_pay(ring, alpha):
    def drafters():
        return [lambda: SyntheticDrafter(right=alpha, token_s=0.003)]

    looped, _ = measure(ring, loops=True)
    drafted, _ = measure(ring, drafters())
    both, statistics = measure(ring, drafters(), loops=True)
    assert both > 0.95 * max(looped, drafted)
    assert (statistics.looped > 250) == (alpha < 0.1 or looped > drafted)


def words(text):
    """Real text, one token a word: what lookup finds in it is what it finds in answers."""
    return [zlib.crc32(word.encode()) % 2**20 for word in re.findall(r"\w+|\W", text)]


def rate_of(prompt, answer, ring, drafters):
    sequence = [*prompt, *answer]
    return measure(
        ring, drafters, prompt=prompt, tokens=min(len(answer), 500), draw=lambda r: sequence[len(r)]
    )[0]


@pytest.mark.parametrize(("ring", "gain"), [(LONG_WAN, 2.5), (LAN, 1.5)], ids=["wan", "lan"])
def test_lookup_pays_where_an_answer_copies(ring, gain):
    code = (ROOT / "protocol" / "route.py").read_text()
    edited = code.replace("layers", "blocks").replace("self", "this")
    prompt, answer = words(code), words(edited)
    plain = rate_of(prompt, answer, ring, ())
    assert rate_of(prompt, answer, ring, [PromptLookup]) > gain * plain


@pytest.mark.parametrize("ring", [LONG_WAN, LAN, ONE_HOP], ids=["wan", "lan", "one hop"])
@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "CONTRIBUTING.md"])
def test_lookup_costs_nothing_where_it_does_not(ring, page):
    text = words((ROOT / page).read_text())
    plain = rate_of(text[:50], text[50:], ring, ())
    assert rate_of(text[:50], text[50:], ring, [PromptLookup]) >= 0.98 * plain
