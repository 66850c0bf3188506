"""Tables of `standing`."""

__all__: list[str] = []
