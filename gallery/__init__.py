"""Models that can be installed: indexes of them, the sources of their files, and their installation."""
