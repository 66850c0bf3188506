"""Machines of one LAN: found by multicast, and streams over TCP + TLS between them."""
