from transport.quic.path import PROOF_TIMEOUT_S, QuicPath

HOME, AWAY, THIRD = ("192.0.2.1", 1), ("192.0.2.2", 2), ("192.0.2.3", 3)
DATAGRAM = bytes(1000)


class TestQuicPath:
    def test_first_address_is_not_limited(self):
        path = QuicPath(HOME)
        assert path.is_proved
        assert len(path.allow([DATAGRAM] * 100, 0.0)) == 100

    def test_new_address_gets_three_times_what_came_from_it(self):
        path = QuicPath(HOME)
        path.move(AWAY, ping=1, now=0.0)
        path.on_received(1000)
        assert path.address == AWAY
        assert len(path.allow([DATAGRAM] * 5, 0.1)) == 3
        assert not path.allow([DATAGRAM], 0.1)
        path.on_received(400)
        assert len(path.allow([DATAGRAM] * 5, 0.2)) == 1

    def test_acknowledged_ping_proves_it(self):
        path = QuicPath(HOME)
        path.move(AWAY, ping=2, now=0.0)
        path.on_ping_acknowledged(1)  # was sent to the old address
        assert not path.is_proved
        path.on_ping_acknowledged(2)
        assert path.is_proved
        assert len(path.allow([DATAGRAM] * 100, 0.1)) == 100

    def test_without_proof_the_old_address_comes_back(self):
        path = QuicPath(HOME)
        path.move(AWAY, ping=1, now=0.0)
        path.move(THIRD, ping=2, now=1.0)
        assert path.allow([DATAGRAM], 1.0 + PROOF_TIMEOUT_S) == [DATAGRAM]
        assert path.address == HOME
        assert path.is_proved

    def test_moving_back_needs_no_new_proof(self):
        path = QuicPath(HOME)
        path.move(AWAY, ping=1, now=0.0)
        path.move(HOME, ping=2, now=0.1)
        assert path.address == HOME
        assert path.is_proved
