"""Authenticated connections between peers; knows nothing of models or money."""
