"""Reconciliation: what the processor says of our balance, against the book, both ways."""
