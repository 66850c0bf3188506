"""The control plane: byte streams over TCP to peers and relays, on py-libp2p."""
