"""The catalogue: which exact models can be sold, and which are whole right now."""
