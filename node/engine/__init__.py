"""Engines: shards of a model's layers, many sequences at once, in a process of their own."""
