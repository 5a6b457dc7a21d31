"""Engines: one file each, behind the small Protocols of `base`."""
