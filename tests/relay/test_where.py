import pytest

from protocol.relay_messages import FORWARD_BYTES_MAX, WHERE_PROTOCOL, Where, decode_answer
from relay.requests import RequestGate
from relay.resources import CircuitLimits
from relay.where import WhereService
from tests.relay.control_pair import RelayHost
from transport.control.messages import read_message
from transport.errors import StreamReset


async def test_relay_says_where_its_udp_side_is_unasked():
    host = RelayHost()
    service = WhereService(RequestGate(CircuitLimits()), host="203.0.113.9", ports=(4001, 4002))
    host.set_handler(WHERE_PROTOCOL, service.serve)
    stream = host.join("a").ask(WHERE_PROTOCOL)
    data = await read_message(stream, FORWARD_BYTES_MAX, timeout_s=5)
    assert decode_answer(Where, data) == Where("203.0.113.9", (4001, 4002))
    assert await stream.read(1) == b""
    await host.close()


async def test_draining_relay_resets_who_asks():
    host, gate = RelayHost(), RequestGate(CircuitLimits())
    gate.is_draining = True
    host.set_handler(WHERE_PROTOCOL, WhereService(gate, host="", ports=(4001,)).serve)
    stream = host.join("a").ask(WHERE_PROTOCOL)
    with pytest.raises(StreamReset):
        await stream.read(1)
    await host.close()
