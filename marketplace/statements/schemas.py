"""JSON of `statements`."""

from marketplace.fields import HexId, PeerText, Schema, SpanSchema, WorkSchema

__all__ = ["StatedSession", "Statement"]


class StatedSession(Schema):
    """One lease of the provider's: what its last receipt says, and whether that is settled."""

    lease_id: HexId
    span: SpanSchema
    amount_nanos: int
    work: WorkSchema
    settled: bool


class Statement(Schema):
    """A provider's view: settled earnings, and its newest sessions."""

    peer_id: PeerText
    earned_nanos: int
    sessions: list[StatedSession]
