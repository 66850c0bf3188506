"""What must hold between payouts, releases and the book, as SQL."""
