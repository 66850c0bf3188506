"""Tables of `disputes`."""

__all__: list[str] = []
