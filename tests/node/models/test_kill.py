"""A pull in a process of its own: killed with SIGKILL, and the next one; told to stay offline."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from node.engine.errors import ShardMismatch
from node.engine.holdings import JOURNAL_NAME, read_journal, verify_span
from node.engine.store import load_manifest
from protocol.route import Span
from tests.node.models.checkpoints import LAYERS, NAME, make_model, publish_manifest
from tests.node.models.hub_server import serving

PROGRAM = "from node.cli.main import main; main()"


def start_pull(hub, home):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "models", "pull", NAME, "--home", str(home), "--json"],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_pull_goes_on_without_fetching_a_verified_tensor_again(tmp_path):
    model = make_model(tmp_path / "hub", size=300_000)
    manifest = publish_manifest(model)
    directory = tmp_path / "home" / "models" / NAME
    with serving(model) as hub:
        hub.faults.pause_s = 0.02
        child = start_pull(hub, tmp_path / "home")
        try:
            deadline_s = time.monotonic() + 30
            while len(fetched := journal(directory)) < 3:
                assert child.poll() is None, child.communicate()
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        fetched = journal(directory)
        assert 3 <= len(fetched) < len(manifest.tensors)
        with pytest.raises(ShardMismatch):  # what is half there is never loaded
            verify_span(load_manifest(directory, NAME), directory, Span(0, LAYERS), ends=True)
        hub.faults.pause_s = 0
        hub.ranges.clear()
        child = start_pull(hub, tmp_path / "home")
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        report = json.loads(out)
    sizes = {tensor.name: tensor.size_bytes for tensor in manifest.tensors}
    there = sum(sizes[name] for name in fetched)
    assert report["there_bytes"] == there
    assert report["fetched_bytes"] == sum(sizes.values()) - there
    for tensor in manifest.tensors:
        again = [
            r
            for r in hub.ranges
            if r[0] == tensor.file and r[1] < tensor.end and r[2] > tensor.start
        ]
        assert bool(again) == (tensor.name not in fetched), tensor.name
    assert load_manifest(directory, NAME) == manifest
    verify_span(manifest, directory, Span(0, LAYERS), ends=True)


def journal(directory):
    return (read_journal(directory) or {}) if (directory / JOURNAL_NAME).is_file() else {}


def test_offline_means_offline(tmp_path):
    with serving(make_model(tmp_path / "hub")) as hub:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "models", "pull", NAME, "--home", str(tmp_path)],
            env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, hub.tokens) == (1, [])
    assert "HF_HUB_OFFLINE forbids" in done.stderr
