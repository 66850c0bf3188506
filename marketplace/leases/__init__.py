"""An accepted quote: money held, one signed lease per hop, and the session that follows."""
