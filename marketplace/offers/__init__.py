"""What providers sell, and where a joining node should stand."""
