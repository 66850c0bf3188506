"""Serving a span: admission, sessions at this hop, and the receipts they earn."""
