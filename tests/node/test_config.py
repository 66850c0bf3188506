import os

import pytest

from node.config import Home, parse_bytes
from node.errors import ConfigInvalid
from protocol.identity import KeyPair


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 << 30), ("512M", 512 << 20), ("1.5g", 3 << 29), ("64KiB", 64 << 10), ("1000", 1000)],
)
def test_amounts_of_memory(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "-4G", "0", "4X", "nan", "inf", "4 apples"])
def test_what_is_no_amount_is_refused_by_name(text):
    with pytest.raises(ConfigInvalid, match="amount of memory"):
        parse_bytes(text)


class TestKey:
    def test_is_made_once_and_kept_for_the_owner_alone(self, tmp_path):
        home = Home(tmp_path / "home")
        key = home.load_or_create_key()
        assert Home(tmp_path / "home").load_or_create_key().peer_id == key.peer_id
        assert (home.path / "node.key").stat().st_mode & 0o777 == 0o600

    def test_that_others_can_read_is_refused_with_the_cure(self, tmp_path):
        home = Home(tmp_path)
        home.load_or_create_key()
        os.chmod(tmp_path / "node.key", 0o644)
        with pytest.raises(ConfigInvalid, match="chmod 600"):
            home.load_or_create_key()

    def test_that_is_damaged_is_not_replaced(self, tmp_path):
        home = Home(tmp_path)
        home.load_or_create_key()
        (tmp_path / "node.key").write_bytes(b"short")
        with pytest.raises(ConfigInvalid, match="damaged"):
            home.load_or_create_key()


class TestPin:
    def test_the_first_key_of_a_marketplace_is_trusted_and_kept(self, tmp_path):
        home, market = Home(tmp_path), KeyPair.generate().peer_id
        home.pin_market("http://a", market)
        home.pin_market("http://a", market)

    def test_another_key_at_the_same_address_is_refused(self, tmp_path):
        home = Home(tmp_path)
        home.pin_market("http://a", KeyPair.generate().peer_id)
        with pytest.raises(ConfigInvalid, match="another key"):
            home.pin_market("http://a", KeyPair.generate().peer_id)
        home.pin_market("http://b", KeyPair.generate().peer_id)


def test_the_pairing_token_is_made_once_and_kept_private(tmp_path):
    token = Home(tmp_path).load_or_create_pairing_token()
    assert len(token) >= 32
    assert Home(tmp_path).load_or_create_pairing_token() == token
    path = tmp_path / "pairing.token"
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o644)
    with pytest.raises(ConfigInvalid):
        Home(tmp_path).load_or_create_pairing_token()
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(ConfigInvalid):
        Home(tmp_path).load_or_create_pairing_token()
