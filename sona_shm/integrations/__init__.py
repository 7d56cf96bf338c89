"""How engines live in servers that run as many processes."""
