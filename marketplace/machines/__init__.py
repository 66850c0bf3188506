"""Which provider account a machine (a PeerId) earns for."""
