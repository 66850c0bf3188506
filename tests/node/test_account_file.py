"""The buyer's keys of a home."""

import pytest

from node.account_file import AccountFile, StoredAccount
from node.errors import ConfigInvalid

ANN = StoredAccount("a" * 32, "Ann's", "abcdefgh", "pw_live_abcdefgh_secret")


@pytest.fixture
def file(tmp_path):
    return AccountFile(tmp_path / "home")


def test_kept_for_each_marketplace_and_for_its_owner_alone(file, tmp_path):
    assert file.find("http://market") is None
    file.store("http://market/", ANN)
    file.store("http://other", ANN)
    assert file.find("http://market") == ANN
    path = tmp_path / "home" / "accounts.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["accounts.json"]
    file.remove("http://market")
    file.remove("http://market")
    assert file.find("http://market") is None
    assert file.find("http://other") == ANN


def test_what_others_can_read_is_not_used(file, tmp_path):
    file.store("http://market", ANN)
    (tmp_path / "home" / "accounts.json").chmod(0o644)
    with pytest.raises(ConfigInvalid, match="read by others"):
        file.find("http://market")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"http://market": {}}', '{"a": 1}'])
def test_a_damaged_file_is_said_in_words(file, tmp_path, content):
    file.store("http://market", ANN)
    path = tmp_path / "home" / "accounts.json"
    path.write_text(content)
    with pytest.raises(ConfigInvalid, match="damaged"):
        file.find("http://market")
