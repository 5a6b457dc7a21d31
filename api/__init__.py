"""The HTTP edge: OpenAI's and LocalAI's routes. It knows HTTP and no model."""

__version__ = "0.1.0"
