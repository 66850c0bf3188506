"""The links of a toy hop in one epoch: those it dials, and those that are attached to it."""

from typing import Protocol

from protocol.frame import Attach, Frame, LinkRole, Open, Opened, Truncate
from protocol.identity import PeerId
from tests.protocol.toy_frames import replays
from tests.protocol.toy_model import ToyLog
from tests.protocol.toy_streams import End


class LinkUser(Protocol):
    """The hop, as its links see it."""

    def dial(self, peer: PeerId) -> End: ...
    def link_stands(self, role: LinkRole) -> None: ...
    def link_lost(self, links: "ToyLinks", end: End) -> None: ...
    def take_link(self, links: "ToyLinks", end: End, frame: Frame) -> None: ...
    def reads_links(self, links: "ToyLinks") -> bool: ...


class ToyLinks:
    """Made anew by every OPEN. `rows` are those that the hop has then."""

    def __init__(self, hop: LinkUser, request: Open, rows: int) -> None:
        self.rows_there: dict[LinkRole, int] = {}
        """What the other end of a link onward has said to have, once it has."""
        self._hop = hop
        self._request = request
        self._rows = rows
        self._onward: dict[LinkRole, End] = {}

    def dial(self) -> None:
        request = self._request
        if request.standby:
            return
        if not request.is_last:
            self._dial(LinkRole.STEPS, request.next, request.hop_index + 1)
        if request.mirror is not None:
            self._dial(LinkRole.MIRROR, request.mirror, request.hop_index + 1)
        if request.is_last and request.loop is not None:
            self._dial(LinkRole.LOOP, request.loop, 0)

    @property
    def stand_onward(self) -> bool:
        """A standby is not waited for."""
        return self._onward.keys() - {LinkRole.MIRROR} <= self.rows_there.keys()

    def onward(self, role: LinkRole) -> End | None:
        """The link, where there is one and it stands."""
        return self._onward.get(role) if role in self.rows_there else None

    def truncate(self, frame: Truncate) -> None:
        """Pass it on; a standby that is ahead of this hop has forgotten what it had beyond."""
        for role in (LinkRole.STEPS, LinkRole.MIRROR):
            if link := self.onward(role):
                self.rows_there[role] = min(self.rows_there[role], frame.position)
                link.send(frame)

    def mirror_log(self, log: ToyLog) -> None:
        """Bring the next hop's standby to where this hop is, if the log goes back that far."""
        if self.onward(LinkRole.MIRROR) is None:
            return
        start = self.rows_there[LinkRole.MIRROR]
        if start < log.start:
            self._onward.pop(LinkRole.MIRROR).close()
        elif start < log.end:
            self.mirror(start, log.rows(start, log.end))

    def mirror(self, position: int, rows: list[bytes]) -> None:
        """Send the next hop's standby what the next hop is sent."""
        if link := self.onward(LinkRole.MIRROR):
            known = max(0, self.rows_there[LinkRole.MIRROR] - position)
            request = self._request
            for frame in replays(request.session_id, request.epoch, position + known, rows[known:]):
                link.send(frame)

    def attach(self, attach: Attach, end: End) -> None:
        """Take a link of this epoch, if it comes from whom OPEN names."""
        request = self._request
        expected = request.loop if attach.role is LinkRole.LOOP else request.previous
        serves = {
            LinkRole.STEPS: not request.standby,
            LinkRole.MIRROR: request.standby,
            LinkRole.LOOP: request.hop_index == 0,
        }[attach.role]
        if attach.epoch != request.epoch or end.other.owner.peer != expected or not serves:
            end.close()
            return
        end.take = lambda frame: self._take_incoming(end, frame)
        end.reads = lambda: self._hop.reads_links(self)
        end.send(
            Opened(request.session_id, request.epoch, request.hop_index, "", "lan", self._rows)
        )

    def _dial(self, role: LinkRole, peer: PeerId, hop_index: int) -> None:
        end = self._onward[role] = self._hop.dial(peer)
        end.take = lambda frame: self._take_answer(role, end, frame)
        end.send(Attach(self._request.session_id, self._request.epoch, hop_index, role))

    def _take_answer(self, role: LinkRole, end: End, frame: Frame | None) -> None:
        if frame is not None:
            assert isinstance(frame, Opened)
            assert frame.epoch == self._request.epoch
            self.rows_there[role] = frame.cached_tokens
            self._hop.link_stands(role)
        elif role is LinkRole.MIRROR:
            self._onward.pop(role, None)
        else:
            self._hop.link_lost(self, end)

    def _take_incoming(self, end: End, frame: Frame | None) -> None:
        if frame is None:
            self._hop.link_lost(self, end)
        else:
            self._hop.take_link(self, end, frame)
