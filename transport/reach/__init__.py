"""Reaching peers that cannot be dialled: relays, signalling, tunnels, mapped ports."""
