"""The public log: checkpoint, leaves, proofs, totals."""
