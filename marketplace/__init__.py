"""Quotes, leases, accounts and payments; never sees an activation."""
