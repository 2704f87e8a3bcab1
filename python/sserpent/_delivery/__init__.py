"""One stream's life, from its first item to its cleanup."""
