"""What the next hop answers when it is dialled."""

from protocol.errors import ErrorCode
from protocol.frame import PROTOCOL, Opened, decode_frame, encode_frame
from tests.node.serve.rig import make_rig
from tests.node.serve.scripted_head import ScriptedHead


class NextHop:
    """A scripted hop behind the first of two."""

    def __init__(self, rig, *, claims: int) -> None:
        self.host = rig.network.host()
        self.host.set_handler(PROTOCOL, self._answer)
        self._claims = claims

    async def _answer(self, stream) -> None:
        attach = decode_frame(await stream.receive())
        opened = Opened(attach.session_id, attach.epoch, attach.hop_index, "", "", self._claims)
        await stream.send(*encode_frame(opened))
        await stream.receive()


async def test_a_next_hop_that_claims_rows_that_are_not_is_lost(tmp_path):
    async with make_rig(tmp_path) as rig:
        head = ScriptedHead(rig, rig.providers(2))
        first, liar = head.route[0], NextHop(rig, claims=99)
        await head.open()
        await head.decode((1, 2, 3, 4))
        addresses = tuple(str(address) for address in liar.host.addresses)
        change = {"next": liar.host.peer_id, "next_addresses": addresses, "resume": 4, "steps": 1}
        await head.lines[first].send(head.frame(0, epoch=1, **change))
        error = await head.error(first)
        assert (error.code, error.about) == (ErrorCode.MALFORMED, liar.host.peer_id)
