"""Load for the ledger's benchmarks: books with leases in them, and the receipts under these."""
