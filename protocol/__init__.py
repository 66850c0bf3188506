"""The vocabulary: what nodes, relays and the marketplace say to each other.

Imports none of our packages; no I/O, no clock, no torch. Start with `route.py`, then `frame.py`.
"""
