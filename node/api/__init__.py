"""The HTTP surface of a node: OpenAI's wire format in, a head's answers out."""
