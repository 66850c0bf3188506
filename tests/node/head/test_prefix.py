import dataclasses
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from node.head.prefix import Prefix, PrefixSecret, prefix_hashes
from node.router.base import RoutePlan
from protocol.identity import KeyPair
from protocol.limits import PREFIX_BLOCK_TOKENS, PREFIX_BLOCKS_MAX, PREFIX_HASH_BYTES
from protocol.route import Hop, Route, Span
from protocol.tensor import WireDtype

ROOT = bytes(range(32))
PEERS = [KeyPair(bytes([n + 1]) * 32).peer_id for n in range(3)]
BLOCK = PREFIX_BLOCK_TOKENS


def plan(peers=PEERS[:2], cut=3, *, sealed=True, session=b"s", backends=("torch", "mlx")):
    hops = [Hop(peers[0], Span(0, cut), ("here",)), Hop(peers[1], Span(cut, 8))]
    return RoutePlan(session * 16, Route.of("m", 8, hops, sealed=sealed), backends)


def root(secret, route=None, *, key="a key", manifest=bytes(32), dtype=WireDtype.BF16):
    return secret.root(key, route or plan(), manifest, dtype)


# whole blocks of one token each, and a rest: equal beginnings are frequent then
texts = st.builds(
    lambda blocks, rest: [token for b in blocks for token in [b] * BLOCK] + rest,
    st.lists(st.integers(0, 2), max_size=5),
    st.lists(st.integers(0, 2), max_size=BLOCK - 1),
)


class TestHashes:
    @given(texts, texts, st.integers(0, 400))
    def test_they_are_equal_as_far_as_the_tokens_are(self, one, other, changed):
        if changed < len(other):  # one token in the middle of a block
            other = [*other[:changed], other[changed] + 100_000, *other[changed + 1 :]]
        pairs = list(zip(prefix_hashes(ROOT, one), prefix_hashes(ROOT, other), strict=False))
        assert len(pairs) == min(len(one), len(other)) // BLOCK
        for index, (first, second) in enumerate(pairs):
            rows = (index + 1) * BLOCK
            assert (first == second) == (one[:rows] == other[:rows])

    @given(texts)
    def test_another_root_shares_none(self, tokens):
        names = set(prefix_hashes(ROOT, tokens))
        assert names.isdisjoint(prefix_hashes(bytes(32), tokens))

    def test_a_longer_text_begins_with_the_names_of_a_shorter(self):
        tokens = list(range(5 * BLOCK))
        assert prefix_hashes(ROOT, tokens)[:3] == prefix_hashes(ROOT, tokens[: 4 * BLOCK - 1])

    def test_they_are_the_chain_that_the_page_says(self):
        block = b"".join(n.to_bytes(4, "little") for n in range(BLOCK))
        first = hashlib.sha256(ROOT + block).digest()
        second = hashlib.sha256(first + block).digest()
        expected = (first[:PREFIX_HASH_BYTES], second[:PREFIX_HASH_BYTES])
        assert prefix_hashes(ROOT, 2 * list(range(BLOCK))) == expected

    def test_there_are_never_more_than_a_frame_may_carry(self):
        assert len(prefix_hashes(ROOT, [7] * (PREFIX_BLOCKS_MAX + 2) * BLOCK)) == PREFIX_BLOCKS_MAX


class TestPrefix:
    def test_the_last_row_of_a_prompt_is_never_offered(self):
        assert len(Prefix(ROOT, range(2 * BLOCK)).offered) == 1
        assert len(Prefix(ROOT, range(2 * BLOCK + 1)).offered) == 2
        assert Prefix(ROOT, [5]).offered == ()

    def test_the_next_turn_finds_the_prompt_and_the_answer(self):
        prompt, answer = list(range(BLOCK + 3)), list(range(2 * BLOCK))
        prefix = Prefix(ROOT, prompt)
        prefix.record(BLOCK, prompt[BLOCK:])  # a block was there already
        for position, token in enumerate(answer, len(prompt)):
            prefix.record(position, [token])
        following = Prefix(ROOT, [*prompt, *answer, 1, 2, 3])
        assert prefix.kept(len(prompt) + len(answer)) == following.offered

    def test_rows_that_were_run_again_count_as_they_were_run_last(self):
        prefix = Prefix(ROOT, [1] * 60)
        prefix.record(60, [2, 3, 4, 5])
        prefix.record(62, [6, 7])
        assert prefix.kept(64) == prefix_hashes(ROOT, [1] * 60 + [2, 3, 6, 7])

    def test_no_more_is_kept_than_has_arrived(self):
        prefix = Prefix(ROOT, [1] * 200)
        assert len(prefix.kept(127)) == 1
        assert prefix.kept(0) == ()


class TestSecret:
    def test_a_tenant_behind_one_route_has_one_root_in_every_session(self):
        secret = PrefixSecret()
        moved = dataclasses.replace(plan(), session_id=b"t" * 16, payer_key=KeyPair.generate())
        assert root(secret) == root(secret, moved)

    def test_whatever_decides_the_rows_changes_it(self):
        secret = PrefixSecret()
        roots = [
            root(secret),
            root(secret, key="another key"),
            root(secret, key=""),
            root(secret, manifest=b"m" * 32),
            root(secret, dtype=WireDtype.FP32),
            root(secret, plan(sealed=False)),
            root(secret, plan(PEERS[1:])),
            root(secret, plan(PEERS[1::-1])),
            root(secret, plan(cut=4)),
            root(secret, plan(backends=("torch", "torch"))),
        ]
        assert len(set(roots)) == len(roots)

    def test_another_process_has_other_names_for_the_same_text(self):
        assert root(PrefixSecret()) != root(PrefixSecret())
        assert root(PrefixSecret(b"k" * 32)) == root(PrefixSecret(b"k" * 32))
