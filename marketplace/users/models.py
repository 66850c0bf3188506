"""Tables of `users`."""

__all__: list[str] = []
