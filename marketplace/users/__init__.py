"""People who sign in: passwords, one-time codes, sessions, roles, device codes."""
