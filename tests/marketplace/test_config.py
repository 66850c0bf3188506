"""Settings and the key file."""

import stat

import pytest

from marketplace.config import KEY_FILE, MarketConfig, load_key, read_config
from marketplace.errors import MarketError


def test_environment_is_read_and_the_command_line_goes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PIECEWORK_MARKET_FEE_BASIS_POINTS", "700")
    monkeypatch.setenv("PIECEWORK_MARKET_NETWORK", "pool")
    config = read_config(home=tmp_path, network="other", fee_basis_points=None)
    assert (config.fee_basis_points, config.network) == (700, "other")


def test_a_wrong_setting_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIECEWORK_MARKET_WINDOW_TOKENS", "none")
    with pytest.raises(MarketError, match="window_tokens"):
        read_config(home=tmp_path)


def test_database_stands_in_the_home_unless_said_otherwise(tmp_path):
    assert MarketConfig(home=tmp_path).url == f"sqlite:///{tmp_path}/marketplace.sqlite"
    assert MarketConfig(home=tmp_path, database_url="sqlite://").url == "sqlite://"


class TestKey:
    def test_made_once_and_readable_by_its_owner_alone(self, tmp_path):
        home = tmp_path / "new" / "home"
        key = load_key(home)
        assert load_key(home).peer_id == key.peer_id
        assert stat.S_IMODE((home / KEY_FILE).stat().st_mode) == 0o600

    def test_a_key_that_others_may_read_is_refused(self, tmp_path):
        load_key(tmp_path)
        (tmp_path / KEY_FILE).chmod(0o644)
        with pytest.raises(MarketError, match="chmod 600"):
            load_key(tmp_path)

    def test_a_damaged_key_is_refused(self, tmp_path):
        load_key(tmp_path)
        (tmp_path / KEY_FILE).write_bytes(b"short")
        with pytest.raises(MarketError, match="not a marketplace key"):
            load_key(tmp_path)


RELAY = "/ip4/203.0.113.9/tcp/4001/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"


def test_relays_stand_between_spaces_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PIECEWORK_MARKET_RELAYS", f"{RELAY}  {RELAY}")
    assert read_config(home=tmp_path).relays == (RELAY, RELAY)


def test_a_relay_that_is_no_multiaddr_is_refused(tmp_path):
    with pytest.raises(MarketError, match="relays"):
        read_config(home=tmp_path, relays=("relay.example:4001",))
