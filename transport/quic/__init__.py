"""The data socket: QUIC on aioquic's sans-IO core, one UDP socket for everything."""
