"""Tables of `machines`."""

__all__: list[str] = []
