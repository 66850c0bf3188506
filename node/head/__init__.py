"""The head: drives sessions. Tokenizes, opens a route, steps, samples, signs receipts."""
