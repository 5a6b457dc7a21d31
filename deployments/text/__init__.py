"""From messages to prompts, and from generated text to answers."""
