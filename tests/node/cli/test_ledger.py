"""`piecework ledger`: offline audits, proofs and fork proofs from files alone, with exit codes."""

import json

import pytest
from typer.testing import CliRunner

from ledger.bundle import BundleHeader, BundleTotals, write_bundle
from ledger.fork import ForkProof
from node.cli.main import app
from tests.ledger.test_audit import LEAVES, PUBLISHED
from tests.ledger.test_proof_file import proof_of
from tests.ledger.test_witness import FORKED, HONEST, note_of
from tests.ledger.world import MARKET, OTHER

KEY = ["--market-key", str(MARKET.peer_id)]


@pytest.fixture
def run(tmp_path):
    def invoke(*words, key=KEY):
        home = ["--home", str(tmp_path / "home")]
        return CliRunner().invoke(app, ["ledger", *map(str, words), *key, *home])

    return invoke


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "log.bundle"
    with path.open("wb") as file:
        for _ in write_bundle(
            file, BundleHeader(PUBLISHED.note, BundleTotals(**PUBLISHED.totals)), LEAVES
        ):
            pass
    return path


class TestAudit:
    def test_a_saved_log(self, run, saved):
        answer = run("audit", "--file", saved, "--json")
        assert answer.exit_code == 0, answer.output
        report = json.loads(answer.stdout)
        assert report["ok"]
        assert report["leaves"] == len(LEAVES)
        assert report["charged_nanos"] == report["credited_nanos"] + report["fee_nanos"]

    def test_a_damaged_file_exits_with_1_and_names_it(self, run, saved):
        data = bytearray(saved.read_bytes())
        data[-40] ^= 1
        saved.write_bytes(bytes(data))
        answer = run("audit", "--file", saved, "--json")
        assert answer.exit_code == 1
        assert "damaged" in answer.stdout

    def test_another_key(self, run, saved):
        answer = run("audit", "--file", saved, "--json", key=["--market-key", str(OTHER.peer_id)])
        assert answer.exit_code == 1
        assert "not signed by" in answer.stdout

    def test_without_a_key_or_a_log(self, run, saved):
        assert run("audit", "--file", saved, key=[]).exit_code == 2
        assert run("audit").exit_code == 2


class TestProof:
    def test_a_file_says_who_carried_what(self, run, tmp_path):
        path = tmp_path / "one.tlog-proof"
        path.write_text(proof_of(1).encode())
        answer = run("proof", path, "--json")
        assert answer.exit_code == 0, answer.output
        (receipt,) = json.loads(answer.stdout)["receipts"]
        assert (receipt["tokens"], receipt["index"]) == (20, 1)
        assert len(receipt["witnesses"]) == 1
        assert "carried 20 tokens" in run("proof", path).stdout

    def test_a_changed_file_exits_with_1(self, run, tmp_path):
        path = tmp_path / "one.tlog-proof"
        path.write_text(proof_of(1).encode().replace("index 1", "index 2"))
        assert run("proof", path).exit_code == 1

    def test_neither_id_nor_file(self, run):
        assert run("proof", "nothing").exit_code == 2


class TestVerifyFork:
    def test_two_histories(self, run, tmp_path):
        path = tmp_path / "fork.json"
        path.write_text(ForkProof(note_of(HONEST, 9), note_of(FORKED, 9)).encode())
        answer = run("verify-fork", path)
        assert answer.exit_code == 0, answer.output
        assert "signed two histories" in answer.stdout

    def test_one_history(self, run, tmp_path):
        path = tmp_path / "fork.json"
        path.write_text(ForkProof(note_of(HONEST, 9), note_of(HONEST, 9)).encode())
        assert run("verify-fork", path).exit_code == 1
        assert run("verify-fork", tmp_path / "none").exit_code == 1
