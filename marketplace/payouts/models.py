"""Tables of `payouts`."""

__all__: list[str] = []
