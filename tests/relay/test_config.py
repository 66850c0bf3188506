import stat

import pytest

from relay.config import KEY_FILE, load_key, read_config
from relay.errors import ConfigInvalid
from relay.resources import Resources


def test_nothing_needs_to_be_set():
    config = read_config()
    assert (config.host, config.port, config.udp_port, config.other_udp_port) == (
        "0.0.0.0",
        4001,
        4001,
        4002,
    )
    assert (config.status_host, config.status_port) == ("127.0.0.1", 8480)
    assert config.resources == Resources()


def test_settings_and_limits_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("PIECEWORK_RELAY_PORT", "5001")
    monkeypatch.setenv("PIECEWORK_RELAY_CIRCUITS__RESERVATIONS_MAX", "10")
    monkeypatch.setenv("PIECEWORK_RELAY_FORWARDER__MONTH_BYTES_MAX", "1000")
    config = read_config(port=None)
    assert config.port == 5001
    assert config.resources.circuits.reservations_max == 10
    assert config.resources.forwarder.month_bytes_max == 1000
    assert read_config(port=5002).port == 5002


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("HOST", "relay.example.org"),
        ("ANNOUNCE_HOST", "relay.example.org"),
        ("CIRCUITS__RESERVATIONS_MAX", "0"),
        ("CIRCUITS__RESERVATION_MAX", "10"),
    ],
)
def test_setting_that_cannot_be_is_named(monkeypatch, name, value):
    monkeypatch.setenv(f"PIECEWORK_RELAY_{name}", value)
    with pytest.raises(ConfigInvalid, match=name.split("__")[0].lower()):
        read_config()


def test_key_is_made_once_and_for_its_owner_alone(tmp_path):
    home = tmp_path / "home"
    key = load_key(home)
    assert load_key(home).peer_id == key.peer_id
    assert stat.S_IMODE((home / KEY_FILE).stat().st_mode) == 0o600


def test_damaged_key_is_refused(tmp_path):
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(ConfigInvalid, match="not a relay's key"):
        load_key(tmp_path)


def test_home_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigInvalid, match="cannot be used"):
        load_key(tmp_path / "file")
