"""Results of models as OpenAI's response objects, whole and in pieces."""
