"""Where a session runs: the one place where the private house and the paid pool differ."""
