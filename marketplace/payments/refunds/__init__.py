"""Money back: refunds, and what card holders' banks take."""
