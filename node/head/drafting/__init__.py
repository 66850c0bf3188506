"""Drafting: guess what follows, verify it in one step, keep what holds: many tokens a trip."""
