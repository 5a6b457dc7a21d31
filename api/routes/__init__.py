"""The routes, a file per group of operations."""
