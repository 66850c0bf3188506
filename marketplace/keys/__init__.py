"""API keys: made, listed, revoked; only a hash of the secret is kept."""
