"""A provider's pages: earned, held, payable, in transit, paid, and why."""
