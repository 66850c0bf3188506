import pytest

from transport.quic.settings import QuicSettings


class TestQuicSettings:
    @pytest.mark.parametrize("size", [1199, 8901])
    def test_datagram_size_is_bounded(self, size):
        with pytest.raises(ValueError, match="1200 to 8900"):
            QuicSettings(datagram_bytes=size)
        with pytest.raises(ValueError, match="1200 to 8900"):
            QuicSettings(loopback_datagram_bytes=size)

    def test_windows_must_hold_the_largest_frame(self):
        with pytest.raises(ValueError, match="stream window"):
            QuicSettings(stream_window_bytes=1024 * 1024)
        with pytest.raises(ValueError, match="connection window"):
            QuicSettings(connection_window_bytes=1024 * 1024)
