"""A node: serves shards, drives sessions, or both."""
