"""Buyers' accounts: a name, a balance in the ledger, a first API key."""
