"""The relay: a public node that lends circuits, introduces peers, and reads nothing it carries."""
