"""Saved cards, and their charges while the buyer is away."""
