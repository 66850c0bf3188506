"""Blame by graph: liars stand out, honest peers do not, and what is unclear stays so."""

from hypothesis import given
from hypothesis import strategies as st

from ledger.blame import NEIGHBOURS_MIN, OUTNUMBERED_MIN, Blame, blamed, find_blame


def star(centre: str, *names: str) -> list[tuple[str, str]]:
    return [(centre, name) for name in names]


def accusers(mark: str, count: int = NEIGHBOURS_MIN) -> list[str]:
    return [f"{mark}{number}" for number in range(count)]


def test_who_contradicts_many_that_contradict_nobody_else_is_to_blame():
    (blame,) = find_blame([*star("liar", "a", "b", "c"), ("d", "liar"), ("e", "liar")])
    assert blame == Blame("liar", ("a", "b", "c", "d", "e"))
    assert "contradicts 5 distinct neighbours" in blame.reason
    assert blamed([blame], ("a", "liar")) == blame
    assert blamed([blame], ("a", "b")) is None


def test_few_accusers_are_not_enough_and_the_same_one_counts_once():
    assert find_blame(star("liar", *accusers("a", NEIGHBOURS_MIN - 1))) == ()
    assert find_blame([("liar", "a")] * 10 + [("liar", "liar")] * 10) == ()


def test_a_pair_alone_is_unclear():
    assert find_blame([("a", "b")]) == ()
    assert find_blame([]) == ()


def test_two_liars_beside_one_another_are_both_found():
    links = [("x", "y"), *star("x", *accusers("a")), *star("y", *accusers("b"))]
    blames = find_blame(links)
    assert [blame.party for blame in blames] == ["x", "y"]
    assert blamed(blames, ("x", "y")) is None


def test_a_victim_of_many_liars_is_not_to_blame_once_they_have_lied_to_others():
    liars = [f"liar {name}" for name in "uvwxyz"]
    links = [*star("victim", *liars)]
    links += [pair for liar in liars for pair in star(liar, *accusers(liar))]
    assert {blame.party for blame in find_blame(links)} == set(liars)


def test_liars_are_found_when_each_of_their_neighbours_has_met_several_of_them():
    """With time every honest party has met every liar: then nobody contradicts one alone."""
    liars, honest = accusers("liar", 4), accusers("honest", 12)
    links = [(liar, each) for liar in liars for each in honest]
    assert {blame.party for blame in find_blame(links)} == set(liars)


def test_where_liars_are_too_many_nothing_is_said():
    liars, honest = accusers("liar", 6), accusers("honest", 6 * OUTNUMBERED_MIN - 1)
    links = [(liar, each) for liar in liars for each in honest]
    assert find_blame(links) == ()


PEERS = st.integers(0, 30)


@given(st.lists(st.tuples(PEERS, PEERS), max_size=200), st.sets(PEERS, max_size=4))
def test_while_liars_are_fewer_than_the_accusers_asked_for_only_they_are_blamed(pairs, liars):
    # two honest ends never contradict one another
    links = [(f"p{a}", f"p{b}") for a, b in pairs if a in liars or b in liars]
    assert {blame.party for blame in find_blame(links)} <= {f"p{liar}" for liar in liars}


@given(st.lists(st.tuples(PEERS, PEERS), max_size=60), st.randoms())
def test_the_order_of_links_is_no_matter(pairs, random):
    links = [(f"p{a}", f"p{b}") for a, b in pairs]
    shuffled = [pair[::-1] if random.random() < 0.5 else pair for pair in links]
    random.shuffle(shuffled)
    assert find_blame(links) == find_blame(shuffled)
