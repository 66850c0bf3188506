"""Money in: top-ups through a payment processor."""
