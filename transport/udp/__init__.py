"""UDP sockets: batches in, runs out."""
