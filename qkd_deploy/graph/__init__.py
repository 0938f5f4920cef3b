"""qkd-deploy."""
