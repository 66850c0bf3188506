"""Money out to providers: release, schedule, payouts, recovery."""
