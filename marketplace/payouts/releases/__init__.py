"""Earnings leaving PROVIDER_EARNED: what of them is payable, what is held, and why."""
