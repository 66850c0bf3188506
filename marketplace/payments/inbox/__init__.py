"""Webhooks: kept in the same transaction as their answer, and acted on afterwards."""
