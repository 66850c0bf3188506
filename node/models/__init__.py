"""Models on disk: fetching, sharing, converting and checking what an engine loads."""
