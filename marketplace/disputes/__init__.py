"""Contradicting receipts, parked money, rulings."""
