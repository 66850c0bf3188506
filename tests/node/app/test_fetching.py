"""What programs do about weights that are not here: a provider, a machine alone."""

import pytest

from node.app import fetching
from node.app.fetching import (
    SourceChoice,
    TellingListener,
    fetch_for_pool,
    fetch_missing,
    fetch_model,
)
from node.config import Home
from node.engine.errors import ModelNotFound, ShardMismatch
from node.engine.holdings import verify_span
from node.engine.store import build_manifest
from node.errors import ConfigInvalid
from node.models.errors import ModelFetchFailed, NothingVouches
from node.models.peer_server import share_weights
from node.models.progress import Planned, Received, SourceDropped
from node.models.pull import PullOrder
from protocol.identity import KeyPair
from protocol.route import Span
from tests.node.models.checkpoints import NAME, make_model
from tests.node.models.hub_server import serving
from transport.quic.host import QuicHost

SPAN = Span(1, 3)
NO_LAYERS = Span(0, 0)


class Pool:
    """A marketplace's catalogue and offers."""

    def __init__(self, models=(), offers=()):
        self._models, self._offers = list(models), list(offers)

    async def models(self):
        return self._models

    async def offers(self):
        return self._offers


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    """The hub is a closed port: whatever asks it fails at once."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def told():
    return []


@pytest.fixture
async def pool(tmp_path):
    """A pool in which one provider shares the layers 0:3 of a model."""
    model = make_model(tmp_path / "provider")
    manifest = build_manifest(model, NAME)
    host = await QuicHost.start(KeyPair.generate(), listen_host="127.0.0.1")
    share_weights(host, manifest, model, Span(0, 3))
    digest = manifest.manifest_hash.hex()
    offer = {"manifest_hash": digest, "addresses": [str(a) for a in host.addresses]}
    yield Pool([{"id": NAME, "manifest_hash": digest}], [offer]), manifest
    await host.close()


async def test_gateway_with_nothing_gets_the_ends_and_the_tokenizer(pool, home, told, tmp_path):
    market, manifest = pool
    model = await fetch_for_pool(NAME, home, market, told.append)
    with serving(tmp_path / "provider") as hub:
        order = PullOrder(NAME, NO_LAYERS, ends=True)
        await fetch_model(
            home,
            order,
            SourceChoice((f"{hub.url}/{hub.repository}/resolve/main",)),
            TellingListener(told.append),
        )
    verify_span(manifest, model.directory, NO_LAYERS, ends=True)
    assert (model.directory / "tokenizer.json").is_file()
    told.clear()
    await fetch_missing(model, NO_LAYERS, home, market, told.append, ends=True)
    assert told == []


async def test_ends_that_nobody_has_are_asked_of_the_pool_and_the_hub(pool, home, told):
    market, _ = pool
    model = await fetch_for_pool(NAME, home, market, told.append)
    with pytest.raises((ModelNotFound, ModelFetchFailed)):
        await fetch_missing(model, NO_LAYERS, home, market, told.append, ends=True)


async def test_provider_with_nothing_gets_the_manifest_and_then_its_span(pool, home, told):
    market, manifest = pool
    model = await fetch_for_pool(NAME, home, market, told.append)
    assert model.manifest == manifest
    assert model.directory == home.models_path / NAME
    with pytest.raises(ShardMismatch):
        verify_span(manifest, model.directory, SPAN, ends=False)
    await fetch_missing(model, SPAN, home, market, told.append)
    verify_span(manifest, model.directory, SPAN, ends=False)
    assert any(line.startswith("fetching ") for line in told)
    told.clear()
    assert (await fetch_for_pool(NAME, home, market, told.append)).manifest == manifest
    await fetch_missing(model, SPAN, home, market, told.append)
    assert told == []


async def test_model_that_nobody_vouches_for_is_not_begun(home, told):
    with pytest.raises(NothingVouches, match=f"piecework models pull {NAME}"):
        await fetch_for_pool(NAME, home, Pool(), told.append)


@pytest.mark.parametrize("reference", ["no/such/path", "tiny", "../x"])
async def test_what_is_no_name_is_not_asked_for(reference, home, told):
    with pytest.raises(ModelNotFound):
        await fetch_for_pool(reference, home, Pool(), told.append)
    assert told == []


async def test_directory_of_ones_own_is_never_written_to(tmp_path, home, pool, told):
    market, _ = pool
    own = make_model(tmp_path / "own")
    before = sorted(own.iterdir())
    model = await fetch_for_pool(str(own), home, market, told.append)
    await fetch_missing(model, SPAN, home, market, told.append)
    assert sorted(own.iterdir()) == before


@pytest.mark.parametrize("name", ["piecework/tiny", "../x", "tiny", "a/b/c"])
async def test_only_names_of_the_hub_are_pulled(name, home):
    with pytest.raises(ConfigInvalid):
        await fetching.fetch_model(home, PullOrder(name), SourceChoice(), lambda _: None)


@pytest.mark.parametrize("text", ["ftp://x", "/ip4/1.2.3.4/tcp/1", "peer"])
async def test_source_that_is_none(text, home):
    with pytest.raises(ConfigInvalid, match="is no source"):
        await fetching.fetch_model(home, PullOrder(NAME), SourceChoice((text,)), lambda _: None)


def test_lines_for_a_log_are_few():
    now_s, told = [0.0], []
    listener = TellingListener(told.append, clock=lambda: now_s[0])
    listener(Planned(2**30, 2**20, 3))
    for _ in range(100):
        now_s[0] += 0.25
        listener(Received("hub", 2**20))
    listener(SourceDropped("hub", "It lied.", True))
    assert told == [
        "fetching 1.00 GiB, 1.0 MiB are here already",
        "40.0 MiB of 1.00 GiB, 4.0 MiB/s",
        "80.0 MiB of 1.00 GiB, 4.0 MiB/s",
        "hub is dropped: It lied.",
    ]
