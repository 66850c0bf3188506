"""Co-signed receipts on their way into the ledger."""
