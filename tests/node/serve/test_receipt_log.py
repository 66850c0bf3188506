import os

import pytest

from node.serve.receipt_log import ReceiptLog


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "receipts.log"


def opened(path) -> list[bytes]:
    log = ReceiptLog(path)
    try:
        return log.load()
    finally:
        log.close()


def written(path, *entries) -> None:
    log = ReceiptLog(path)
    for entry in entries:
        log.append(entry)
    log.close()


def test_entries_come_back_in_order_after_a_restart(path):
    written(path, b"one", b"", b"three" * 100)
    assert opened(path) == [b"one", b"", b"three" * 100]


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 10])
def test_a_torn_write_at_the_end_is_cut_off_and_the_log_goes_on(path, cut):
    written(path, b"whole", b"torn")
    os.truncate(path, path.stat().st_size - cut)
    written(path, b"later")
    assert opened(path) == [b"whole", b"later"]


def test_a_flipped_byte_ends_the_log_there(path):
    written(path, b"first", b"second", b"third")
    data = bytearray(path.read_bytes())
    data[8 + 5 + 8] ^= 1
    path.write_bytes(data)
    assert opened(path) == [b"first"]


def test_reset_forgets_everything(path):
    log = ReceiptLog(path)
    log.append(b"one")
    log.reset()
    log.append(b"two")
    assert log.load() == [b"two"]
    log.close()


def test_only_the_owner_can_read_it(path):
    written(path, b"one")
    assert path.stat().st_mode & 0o077 == 0


def test_a_full_disk_is_an_error_and_leaves_no_half_entry(path):
    log = ReceiptLog(path)
    log.append(b"kept")
    limit = path.stat().st_size + 20
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        with pytest.raises(OSError, match=r"disk|large"):
            log.append(b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    log.append(b"after")
    assert log.load() == [b"kept", b"after"]
    log.close()
