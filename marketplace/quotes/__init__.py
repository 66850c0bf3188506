"""A price for a route and a bound of work, good for a minute."""
