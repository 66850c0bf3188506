"""Pulling from a hub on loopback: only what is needed, verified, resumed, from several sources."""

import asyncio
import errno
import json
import os

import pytest

from node.engine.errors import ModelNotFound, ShardMismatch, WeightsCorrupt
from node.engine.holdings import JOURNAL_NAME, missing_tensors, read_holdings, verify_span
from node.engine.store import build_manifest, load_manifest
from node.errors import ConfigInvalid
from node.models.errors import (
    DiskFull,
    ModelBusy,
    ModelDenied,
    ModelFetchFailed,
    NotHeld,
    SourcesFailed,
)
from node.models.fetcher import Fetcher, require_room
from node.models.http_source import HttpSource
from node.models.hub_source import HubSource
from node.models.layout import Layout
from node.models.partial import PartialModel
from node.models.plan import plan_runs
from node.models.progress import FetchProgress, SourceDropped
from node.models.pull import PullOrder, pull_model
from node.models.roster import Patience, Roster
from protocol.route import Span
from tests.node.models.checkpoints import LAYERS, NAME, make_model, publish_manifest
from tests.node.models.hub_server import COMMIT, serving

HASTY = Patience(attempts_max=3, backoff_s=0.01, chunk_timeout_s=0.25)
SPAN = Span(1, 3)


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "hub")


@pytest.fixture
def hub(model):
    with serving(model) as running:
        yield running


@pytest.fixture
def home(tmp_path):
    return tmp_path / "models" / NAME


class Events(FetchProgress):
    """Adds up, and keeps what was told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def __call__(self, event):
        super().__call__(event)
        self.told.append(event)

    @property
    def dropped(self):
        return [event for event in self.told if isinstance(event, SourceDropped)]


async def open_hub(hub, **options):
    return await HubSource.open(hub.repository, endpoint=hub.url, **options)


async def pull(home, *sources, events=None, patience=HASTY, **order):
    events = events or Events()
    roster = Roster(sources, events, patience)
    try:
        return await pull_model(PullOrder(NAME, **order), home, roster, events)
    finally:
        await roster.close()


class TestFromAHubWithAManifest:
    async def test_span_fetches_its_own_bytes_and_no_others(self, model, hub, home):
        manifest = publish_manifest(model)
        events = Events()
        report = await pull(home, await open_hub(hub), span=SPAN, events=events)
        assert report.manifest == manifest
        assert report.vouched_by == "manifest"
        assert events.verified_bytes == manifest.size_bytes(SPAN) == report.missing_bytes
        assert sum(events.received_bytes.values()) == manifest.size_bytes(SPAN)
        verify_span(load_manifest(home, NAME), home, SPAN, ends=False)
        headers = sum(entry.size_bytes for entry in manifest.headers)
        assert hub.fetched() <= manifest.size_bytes(SPAN) + headers
        assert not (home / "model-00003-of-00003.safetensors").exists()
        assert not (home / "tokenizer.json").exists()

    async def test_files_are_sparse_and_of_full_length(self, model, hub, tmp_path):
        big = make_model(tmp_path / "big", size=4_000_000)
        publish_manifest(big)
        with serving(big) as other:
            directory = tmp_path / "models" / NAME
            await pull(directory, await open_hub(other), span=Span(0, 1))
        name = "model-00001-of-00003.safetensors"
        status = (directory / name).stat()
        assert status.st_size == (big / name).stat().st_size
        assert status.st_blocks * 512 < status.st_size / 1.5

    async def test_whole_model_is_the_same_bytes(self, model, hub, home):
        manifest = publish_manifest(model)
        await pull(home, await open_hub(hub))
        for path in model.iterdir():
            if path.suffix in (".safetensors", ".md", ".jinja") or path.stem in ("config",):
                assert (home / path.name).read_bytes() == path.read_bytes()
        verify_span(manifest, home, Span(0, LAYERS), ends=True)
        assert build_manifest(home, NAME) == manifest

    async def test_neighbouring_tensors_come_in_one_request(self, model, hub, home):
        publish_manifest(model)
        await pull(home, await open_hub(hub), span=Span(2, 3))
        runs = [start for _, start, _ in hub.ranges if start > 8]  # before it are length and header
        assert len(runs) == 1

    async def test_second_pull_fetches_only_what_is_new(self, model, hub, home):
        manifest = publish_manifest(model)
        await pull(home, await open_hub(hub), span=Span(0, 2))
        events = Events()
        report = await pull(home, await open_hub(hub), span=Span(0, 3), ends=True, events=events)
        assert report.missing_bytes == manifest.size_bytes(Span(2, 3), ends=True)
        assert report.there_bytes == manifest.size_bytes(Span(0, 2))
        assert events.verified_bytes == report.missing_bytes
        verify_span(manifest, home, Span(0, 3), ends=True)

    async def test_missing_span_is_an_error_that_says_what_to_type(self, model, hub, home):
        manifest = publish_manifest(model)
        await pull(home, await open_hub(hub), span=SPAN)
        with pytest.raises(ShardMismatch, match=f"piecework models pull {NAME} --span 0:2$"):
            verify_span(manifest, home, Span(0, 2), ends=False)

    async def test_single_file_model(self, tmp_path, home):
        manifest = publish_manifest(make_model(tmp_path / "one", is_single=True))
        with serving(tmp_path / "one") as hub:
            await pull(home, await open_hub(hub), span=SPAN)
        verify_span(manifest, home, SPAN, ends=False)

    async def test_another_manifest_than_the_wanted_one_is_a_lie(self, model, hub, home):
        publish_manifest(model)
        events = Events()
        with pytest.raises(SourcesFailed, match="not the one that was asked for"):
            await pull(home, await open_hub(hub), span=SPAN, manifest_hash=bytes(32), events=events)
        assert [event.is_for_good for event in events.dropped] == [True]
        assert not list(home.glob("*.safetensors"))

    async def test_another_version_on_the_disk_is_left_alone(self, model, hub, home):
        publish_manifest(model)
        await pull(home, await open_hub(hub), span=SPAN)
        with pytest.raises(ShardMismatch, match="piecework models rm"):
            await pull(home, await open_hub(hub), span=SPAN, manifest_hash=bytes(32))

    async def test_span_that_the_model_has_not(self, model, hub, home):
        publish_manifest(model)
        with pytest.raises(ConfigInvalid, match="0:4"):
            await pull(home, await open_hub(hub), span=Span(0, LAYERS + 1))

    async def test_empty_span_is_the_manifest_and_the_config_alone(self, model, hub, home):
        manifest = publish_manifest(model)
        report = await pull(home, await open_hub(hub), span=Span(0, 0))
        assert (report.manifest, hub.ranges) == (manifest, [])
        assert (home / "config.json").is_file()


class TestFromAHubWithoutAManifest:
    async def test_whole_model_is_held_against_the_hubs_hashes_and_gets_a_manifest(
        self, model, hub, home
    ):
        report = await pull(home, await open_hub(hub))
        assert report.vouched_by == "hub"
        assert report.manifest == build_manifest(model, NAME)
        assert load_manifest(home, NAME) == report.manifest
        assert report.manifest.resale_allowed

    async def test_file_that_is_not_what_the_hub_says_is_fetched_again(self, model, hub, home):
        source = await open_hub(hub)
        hub.faults.flip_from = 30_000
        with pytest.raises(ModelFetchFailed, match="Not what the hub says"):
            await pull(home, source)
        with pytest.raises(ShardMismatch, match="Only a part"):
            load_manifest(home, NAME)
        hub.faults.flip_from = None
        assert (await pull(home, await open_hub(hub))).manifest == build_manifest(model, NAME)

    async def test_span_says_that_nothing_vouches_and_is_not_loadable(self, model, hub, home):
        report = await pull(home, await open_hub(hub), span=SPAN)
        assert (report.vouched_by, report.manifest) == ("nobody", None)
        with pytest.raises(ShardMismatch):
            load_manifest(home, NAME)

    async def test_span_is_kept_when_a_manifest_turns_up(self, model, hub, home):
        await pull(home, await open_hub(hub), span=SPAN)
        manifest = publish_manifest(model)
        report = await pull(home, await open_hub(hub), span=SPAN)
        assert (report.missing_bytes, report.there_bytes) == (0, manifest.size_bytes(SPAN))
        verify_span(manifest, home, SPAN, ends=False)

    async def test_another_commit_does_not_mix_with_what_was_begun(self, model, hub, home):
        await pull(home, await open_hub(hub), span=SPAN)
        hub.commit = "d" * 40
        with pytest.raises(ShardMismatch, match=COMMIT):
            await pull(home, await open_hub(hub), span=Span(0, 1))

    async def test_mirror_that_says_nothing_of_its_files(self, model, hub, home):
        mirror = HttpSource(f"{hub.url}/{hub.repository}/resolve/main")
        report = await pull(home, mirror)
        assert report.vouched_by == "nobody"
        assert report.manifest == build_manifest(model, NAME)

    async def test_half_of_a_whole_pull_is_never_loaded(self, model, hub, home):
        source = await open_hub(hub)
        (model / "model-00003-of-00003.safetensors").unlink()
        with pytest.raises((ModelFetchFailed, NotHeld)):
            await pull(home, source)
        with pytest.raises(ShardMismatch):
            load_manifest(home, NAME)


class TestFaults:
    async def test_lying_source_is_dropped_and_the_others_bring_it(self, model, home, tmp_path):
        manifest = publish_manifest(model)
        with serving(model) as liar, serving(model) as honest:
            sources = [await open_hub(liar), await open_hub(honest)]
            liar.faults.flip_from = 20_000
            events = Events()
            await pull(home, *sources, events=events)
        verify_span(manifest, home, Span(0, LAYERS), ends=True)
        assert [event.is_for_good for event in events.dropped] == [True]
        assert honest.ranges

    async def test_lying_source_alone_is_an_error_and_nothing_of_the_lie_counts(
        self, model, hub, home
    ):
        manifest = publish_manifest(model)
        source = await open_hub(hub)
        hub.faults.flip_from = 100_000
        with pytest.raises(SourcesFailed, match="is not the manifest's"):
            await pull(home, source)
        held = read_holdings(home)
        for tensor in manifest.tensors:
            assert not held.has(tensor) or tensor.start < 100_000
        with pytest.raises(ShardMismatch, match="are not here"):
            verify_span(manifest, home, Span(0, LAYERS), ends=True)

    async def test_lying_header_is_refused_before_a_byte_is_written(self, model, hub, home):
        publish_manifest(model)
        source = await open_hub(hub)
        path = model / "model-00002-of-00003.safetensors"
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"BF16"', b'"F16" ', 1))
        with pytest.raises(SourcesFailed, match="header"):
            await pull(home, source, span=SPAN)
        assert not (home / path.name).exists()

    async def test_broken_connection_goes_on_where_it_broke(self, model, hub, home):
        manifest = publish_manifest(model)
        source = await open_hub(hub)
        hub.faults.cut_after, hub.faults.cuts = 30_000, 2
        events = Events()
        await pull(home, source, span=SPAN, events=events)
        verify_span(manifest, home, SPAN, ends=False)
        assert not events.dropped
        assert hub.faults.cuts == 0
        assert sum(events.received_bytes.values()) == manifest.size_bytes(SPAN)

    async def test_source_that_always_breaks_off_is_given_up(self, model, hub, home):
        publish_manifest(model)
        source = await open_hub(hub)
        hub.faults.cut_after, hub.faults.cuts = 0, 10**6
        with pytest.raises(SourcesFailed, match="broke off"):
            await pull(home, source, span=SPAN)

    async def test_stalled_source_is_replaced(self, model, home):
        manifest = publish_manifest(model)
        with serving(model) as slow, serving(model) as quick:
            sources = [await open_hub(slow), await open_hub(quick)]
            slow.faults.stall_s = 0.4
            await pull(home, *sources, span=SPAN)
        verify_span(manifest, home, SPAN, ends=False)

    @pytest.mark.parametrize(
        ("fault", "says"),
        [({"status": 500}, "answered 500"), ({"ignore_ranges": True}, "byte ranges")],
        ids=["500", "no ranges"],
    )
    async def test_source_that_refuses_says_why(self, model, hub, home, fault, says):
        publish_manifest(model)
        source = await open_hub(hub)
        for name, value in fault.items():
            setattr(hub.faults, name, value)
        with pytest.raises(SourcesFailed, match=says):
            await pull(home, source, span=SPAN)

    async def test_no_source_at_all(self, home):
        with pytest.raises(ModelFetchFailed):
            await pull(home, span=SPAN, manifest_hash=bytes(32))

    def test_full_disk_is_seen_before_anything_is_fetched(self, tmp_path):
        require_room(tmp_path, 0)
        with pytest.raises(DiskFull, match=r"4,194,304\.0 MiB are still to be fetched"):
            require_room(tmp_path, 2**42)

    async def test_disk_that_fills_up_in_the_middle(self, model, hub, home):
        class FullDisk(PartialModel):
            left = 50_000

            def write(self, file, start, data):
                if self.left < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.left -= len(data)
                super().write(file, start, data)

        manifest = publish_manifest(model)
        storage = FullDisk.open(home)
        events = Events()
        roster = Roster([await open_hub(hub)], events, HASTY)
        pieces = await Layout(storage, roster, manifest).lay_out(SPAN, False)
        with pytest.raises(DiskFull, match="What was verified is kept"):
            await Fetcher(roster, storage, manifest.manifest_hash, events).fetch(
                plan_runs(pieces, ())
            )
        storage.close()
        await roster.close()
        (home / "piecework.manifest").write_bytes(manifest.encode())
        (home / "config.json").write_bytes((model / "config.json").read_bytes())
        kept = len(manifest.tensors) - len(
            missing_tensors(manifest, read_holdings(home), Span(0, LAYERS), True)
        )
        events = Events()
        await pull(home, await open_hub(hub), span=SPAN, events=events)
        assert events.tensors == 6 - kept
        verify_span(manifest, home, SPAN, ends=False)

    async def test_cancelled_pull_goes_on_later(self, model, hub, home):
        manifest = publish_manifest(model)
        source = await open_hub(hub)
        hub.faults.pause_s = 0.05
        task = asyncio.create_task(pull(home, source))
        async with asyncio.timeout(10):
            while not (home / JOURNAL_NAME).is_file() or not read_holdings_or_none(home):
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        hub.faults.pause_s = 0
        events = Events()
        await pull(home, await open_hub(hub), events=events)
        assert events.there_bytes > 0
        verify_span(manifest, home, Span(0, LAYERS), ends=True)


def read_holdings_or_none(home):
    try:
        return read_holdings(home).journal
    except (ModelNotFound, ShardMismatch):
        return None


class TestDirectory:
    async def test_one_pull_at_a_time(self, model, hub, home):
        storage = PartialModel.open(home)
        with pytest.raises(ModelBusy):
            await pull(home, await open_hub(hub))
        storage.close()
        await pull(home, await open_hub(hub))

    async def test_torn_last_line_of_the_journal_is_as_never_written(self, model, hub, home):
        manifest = publish_manifest(model)
        await pull(home, await open_hub(hub), span=SPAN)
        journal = home / JOURNAL_NAME
        data = journal.read_bytes()
        journal.write_bytes(data[:-10])
        last = json.loads(data.splitlines()[-1])["tensor"]
        assert [t.name for t in missing_tensors(manifest, read_holdings(home), SPAN, False)] == [
            last
        ]
        events = Events()
        await pull(home, await open_hub(hub), span=SPAN, events=events)
        assert events.verified_tensors == 1
        verify_span(manifest, home, SPAN, ends=False)

    async def test_directory_that_was_copied_by_hand_is_left_alone(self, model, hub, home):
        make_model(home)
        before = {path.name: path.read_bytes() for path in home.iterdir()}
        with pytest.raises(ShardMismatch, match="by a pull"):
            await pull(home, await open_hub(hub))
        assert {path.name: path.read_bytes() for path in home.iterdir()} == before

    async def test_wrong_byte_on_the_disk_is_found_before_it_is_used(self, model, hub, home):
        manifest = publish_manifest(model)
        await pull(home, await open_hub(hub), span=SPAN)
        tensor = next(t for t in manifest.tensors if t.layer == 1 and t.size_bytes > 1000)
        data = bytearray((home / tensor.file).read_bytes())
        data[tensor.start] ^= 1
        (home / tensor.file).write_bytes(data)
        with pytest.raises(WeightsCorrupt, match=tensor.name):
            verify_span(manifest, home, SPAN, ends=False)


class TestHub:
    async def test_token_goes_to_the_hub_and_to_nobody_else(self, model, hub, home):
        publish_manifest(model)
        await pull(home, await open_hub(hub, token="hf_secret"), span=SPAN)
        asked = {path.startswith("/cdn/"): token for path, token in hub.tokens}
        assert asked == {False: "Bearer hf_secret", True: None}

    async def test_gated_model_says_what_to_do(self, hub):
        hub.faults.gated = True
        with pytest.raises(ModelDenied, match="HF_TOKEN"):
            await open_hub(hub)

    async def test_unknown_model(self, hub):
        with pytest.raises(ModelNotFound, match="org/none"):
            await HubSource.open("org/none", endpoint=hub.url)

    async def test_hub_that_is_away(self):
        with pytest.raises(ModelFetchFailed, match="did not answer"):
            await HubSource.open("org/tiny", endpoint="http://127.0.0.1:9")

    async def test_commit_is_pinned(self, model, hub, home):
        publish_manifest(model)
        source = await open_hub(hub)
        await pull(home, source, span=SPAN)
        assert COMMIT in source.origin
        resolved = [path for path, _ in hub.tokens if "/resolve/" in path]
        assert resolved
        assert all(f"/resolve/{COMMIT}/" in path for path in resolved)
