"""The wire types, with OpenAI's names; LocalAI's extra fields stand on the same classes."""
