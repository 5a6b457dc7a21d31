"""Measurements against other servers. This file makes it a package that is found first: pysbd, which coqui-tts brings,
installs one of the same name."""
