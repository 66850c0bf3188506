from hypothesis import given

from protocol.announcement import Announcement
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from tests.protocol.samples import announcements


@given(announcements)
def test_round_trips(announcement):
    data = encode_canonical(encode_fields(announcement))
    assert decode_fields(Announcement, decode_canonical(data)) == announcement
