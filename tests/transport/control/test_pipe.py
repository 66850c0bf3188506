"""What a stranger may make us hold before the handshake is over, and what waits until it is."""

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError

from transport.control.pipe import Pipe
from transport.control.settings import ControlSettings

SETTINGS = ControlSettings(handshake_bytes_max=1000, read_bytes_max=600)


class Burst:
    """A source on which everything has come already."""

    def __init__(self, size):
        self.left = bytes(n % 251 for n in range(size))

    async def receive(self, bytes_max):
        assert bytes_max > 0
        data, self.left = self.left[:bytes_max], self.left[bytes_max:]
        return data

    def abort(self):
        pass


def test_streams_that_come_with_the_end_of_the_handshake_wait_for_it():
    async def main():
        source = Burst(5000)
        pipe = Pipe(source, SETTINGS)
        whole = source.left
        shaken = await pipe.read(999)
        assert len(source.left) >= 4000  # no more was taken than a stranger may make us hold
        pipe.allow_all()
        assert shaken + await pipe.read(4001) == whole

    trio.run(main)


def test_a_handshake_that_asks_for_more_than_is_allowed_ends():
    async def main():
        await Pipe(Burst(5000), SETTINGS).read(1001)

    with pytest.raises(ConnectionClosedError, match="too much"):
        trio.run(main)
