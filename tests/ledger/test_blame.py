"""Blame by graph: liars stand out, honest peers do not, and what is unclear stays so."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.blame import NEIGHBOURS_MIN, Blame, blamed, find_blame


def test_who_contradicts_three_that_contradict_nobody_else_is_to_blame():
    (blame,) = find_blame([("liar", "a"), ("b", "liar"), ("liar", "c")])
    assert blame == Blame("liar", ("a", "b", "c"))
    assert "3 distinct neighbours" in blame.reason
    assert blamed([blame], ("a", "liar")) == blame
    assert blamed([blame], ("a", "b")) is None


def test_two_accusers_are_not_enough_and_the_same_one_counts_once():
    assert find_blame([("liar", "a"), ("liar", "b")]) == ()
    assert find_blame([("liar", "a")] * 10 + [("liar", "liar")] * 10) == ()


def test_a_pair_alone_is_unclear():
    assert find_blame([("a", "b")]) == ()
    assert find_blame([]) == ()


def test_two_liars_beside_one_another_are_both_found():
    links = [("x", "y"), *(("x", f"a{n}") for n in range(3)), *(("y", f"b{n}") for n in range(3))]
    blames = find_blame(links)
    assert [blame.party for blame in blames] == ["x", "y"]
    assert blamed(blames, ("x", "y")) is None


def test_a_victim_of_two_liars_is_no_witness_of_its_own_and_not_to_blame():
    links = [("x", "victim"), ("y", "victim")]
    links += [("x", f"a{n}") for n in range(3)] + [("y", f"b{n}") for n in range(3)]
    assert {blame.party for blame in find_blame(links)} == {"x", "y"}


PEERS = st.integers(0, 30)


@given(st.lists(st.tuples(PEERS, PEERS), max_size=80), st.sets(PEERS, max_size=4))
def test_while_honest_peers_agree_only_liars_are_blamed(pairs, liars):
    # two honest ends never contradict one another; with few liars no honest peer meets three
    links = [(f"p{a}", f"p{b}") for a, b in pairs if (a in liars) != (b in liars)]
    honest_contradicts = {}
    for a, b in links:
        for one, other in ((a, b), (b, a)):
            honest_contradicts.setdefault(one, set()).add(other)
    for blame in find_blame(links):
        number = int(blame.party[1:])
        if number not in liars:
            # an honest one can be blamed only where so many liars met it and nobody else
            assert len(honest_contradicts[blame.party] & {f"p{n}" for n in liars}) >= NEIGHBOURS_MIN


@given(st.lists(st.tuples(PEERS, PEERS), max_size=60), st.randoms())
def test_the_order_of_links_is_no_matter(pairs, random):
    links = [(f"p{a}", f"p{b}") for a, b in pairs]
    shuffled = [pair[::-1] if random.random() < 0.5 else pair for pair in links]
    random.shuffle(shuffled)
    assert find_blame(links) == find_blame(shuffled)
