"""A buyer's pages: requests, costs, receipts, invoices."""
