"""A saved audit: it replays offline, and any flipped byte of it is named. Exports likewise."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.audit import audit
from ledger.bundle import BundleHeader, BundleReader, BundleTotals, encode_totals, write_bundle
from ledger.checkpoint import open_checkpoint
from ledger.errors import AuditFailed
from ledger.export import check_tiles, export_log, read_checkpoint, read_entries
from ledger.tiles import encode_entries
from ledger.tree import Frontier, leaf_hash, subtree_of
from tests.ledger.test_audit import LEAVES, OLDER, PROOF, PUBLISHED
from tests.ledger.world import MARKET

TOTALS = BundleTotals(**PUBLISHED.totals)


def bundle(header=None, leaves=LEAVES) -> bytes:
    file = io.BytesIO()
    for _ in write_bundle(file, header or BundleHeader(PUBLISHED.note, TOTALS), leaves):
        pass
    return file.getvalue()


def audit_file(data: bytes):
    """As the command does it: an error of the file is a problem too."""
    try:
        reader = BundleReader(io.BytesIO(data))
        entries = reader.entries()
        report = audit(
            entries, reader.header.note, MARKET.peer_id, encode_totals(reader.header.totals),
            beginning=reader.header.beginning,
        )  # fmt: skip
        for _ in entries:
            pass
    except AuditFailed as error:
        return (str(error),)
    return report.with_problems(reader.problems).problems


def newer() -> BundleHeader:
    frontier = Frontier()
    for leaf in LEAVES[: OLDER.size]:
        frontier.append(leaf_hash(leaf))
    return BundleHeader(
        PUBLISHED.note, TOTALS, OLDER.size, OLDER.note, BundleTotals(**OLDER.totals),
        frontier.encode(), tuple(PROOF),
    )  # fmt: skip


class TestBundle:
    def test_replays_offline(self):
        assert audit_file(bundle()) == ()
        assert audit_file(bundle(newer(), LEAVES[OLDER.size :])) == ()

    def test_every_flipped_byte_is_named(self):
        for data in (bundle(), bundle(newer(), LEAVES[OLDER.size :])):
            for position in range(0, len(data), 7):
                changed = bytearray(data)
                changed[position] ^= 1 << position % 8
                assert audit_file(bytes(changed)), position

    def test_a_cut_file_is_named(self):
        data = bundle()
        for length in range(0, len(data), 97):
            assert audit_file(data[:length])
        assert audit_file(data + b"x") == ("file: there is more after its end",)

    @given(st.binary(max_size=300))
    def test_arbitrary_bytes_raise_only_audit_failed(self, data):
        assert audit_file(data)
        assert audit_file(bundle()[:200] + data)

    def test_a_beginning_that_is_not_the_older_notes(self):
        header = newer()
        wrong = BundleHeader(
            header.note, header.totals, header.since, header.older_note, header.older_totals,
            bytes(len(header.frontier)), header.proof,
        )  # fmt: skip
        (problem,) = audit_file(bundle(wrong, LEAVES[OLDER.size :]))
        assert "right edge" in problem

    @settings(max_examples=20, deadline=None)
    @given(start=st.integers(0, len(LEAVES)))
    def test_leaves_left_out_are_named(self, start):
        kept = LEAVES[:start] + LEAVES[start + 1 :]
        assert bool(audit_file(bundle(leaves=kept))) == (start < len(LEAVES))


class TestExport:
    @pytest.fixture
    def exported(self, tmp_path):
        hashes = [leaf_hash(leaf) for leaf in LEAVES]
        subtree = subtree_of(hashes)

        def read(name):
            if name.level is None:
                return encode_entries(LEAVES[: name.width])
            return b"".join(subtree(8 * name.level, index) for index in range(name.width))

        export_log(tmp_path, PUBLISHED.note, PUBLISHED.size, PUBLISHED.totals, read)
        return tmp_path

    def problems(self, directory):
        try:
            note, totals = read_checkpoint(directory)
            checkpoint = open_checkpoint(note, MARKET.peer_id)
        except AuditFailed as error:
            return [str(error)]
        found = list(check_tiles(directory, checkpoint))
        entries = read_entries(directory, checkpoint.size)
        said = {name: totals[name] for name in PUBLISHED.totals if name in totals}
        found += audit(entries, note, MARKET.peer_id, said).problems
        return found + [name for name in PUBLISHED.totals if name not in totals]

    def test_is_whole_and_written_once(self, exported):
        assert self.problems(exported) == []

        def never(name):
            raise AssertionError(name)

        again = export_log(exported, PUBLISHED.note, PUBLISHED.size, PUBLISHED.totals, never)
        assert again == 2

    @pytest.mark.parametrize(
        "path", ["checkpoint", "totals.json", "tile/0/000.p/5", "tile/entries/000.p/5"]
    )
    def test_a_flipped_byte_of_any_file_is_named(self, exported, path):
        file = exported / path
        data = file.read_bytes()
        for position in range(0, len(data), 1 + len(data) // 60):
            changed = bytearray(data)
            changed[position] ^= 2
            file.write_bytes(bytes(changed))
            if path == "totals.json" and b'"size"' not in changed:
                continue  # the command names a size that is missing
            if path == "totals.json" and position < data.index(b",") - 1:
                continue
            assert self.problems(exported), position

    def test_a_file_that_is_gone_is_named(self, exported):
        (exported / "tile/entries/000.p/5").unlink()
        assert self.problems(exported)
