"""The ways to a peer beneath one QUIC connection: probed, punched, chosen, left."""
