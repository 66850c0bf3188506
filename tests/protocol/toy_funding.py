"""Toy leases: how many rows of the session are paid for, and what they say to a hop's machine."""

from protocol.money import Work
from protocol.record import decode_canonical, encode_canonical

WORK_A_ROW = 10**6
"""Room for a row as often as it may be run again: what is tested is where rows end."""


def lease_of(rows: int | None) -> bytes | None:
    return None if rows is None else encode_canonical({"rows": rows})


def funded_by(lease: bytes | None) -> int | None:
    return None if lease is None else decode_canonical(lease)["rows"]


def work_of(rows: int | None) -> Work | None:
    return None if rows is None else Work(*[rows * WORK_A_ROW] * 4)
