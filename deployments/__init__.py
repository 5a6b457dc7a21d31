"""Serve deployments, one class per model type, and what they are built from."""
