"""An operator's pages: sums, clearing accounts, disputes, freezes by two people."""
