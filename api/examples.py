"""Bodies that the OpenAPI document shows, each of which does something as it is."""

from typing import Any

_HELLO = {"model": "gpt-4o", "messages": [{"role": "user", "content": "How much is 2+2?"}]}
_COUNT = {"model": "gpt-4o", "prompt": "Count up to five: one, two, three, "}
_RANK = {
    "model": "jina-reranker-v1-base-en",
    "query": "How far is the moon?",
    "documents": ["The moon is 384,000 km away.", "Cats sleep for most of the day."],
    "top_n": 1,
}
_TEXTS = {"model": "text-embedding-ada-002", "input": ["sun", "cat"]}
_WEIGHTS = "huggingface://bartowski/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct-Q4_K_M.gguf"

EXAMPLES: dict[str, dict[str, Any]] = {
    "addGallery": {"name": "mine", "url": "https://example.org/index.yaml"},
    "applyModel": {"id": "manta@silero-vad"},
    "cohereRerank": _RANK,
    "createAssistant": {"model": "gpt-4o", "name": "Tutor", "instructions": "You help with mathematics."},
    "createChatCompletion": _HELLO,
    "createCompletion": _COUNT,
    "createEdit": {"model": "gpt-4o", "instruction": "Fix the spelling.", "input": "What day of the wek is it?"},
    "createEmbedding": _TEXTS,
    "createEngineCompletion": _COUNT,
    "createEngineEmbedding": _TEXTS,
    "createImage": {"model": "stablediffusion", "prompt": "a blue square on a white background", "size": "64x64"},
    "createSpeech": {"model": "tts-1", "input": "Hello!", "voice": "alloy"},
    "storesFind": {"key": [0.1, 0.2, 0.3], "topk": 2},
    "importUri": {"uri": _WEIGHTS},
    "rerank": _RANK,
    "storesSet": {"keys": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], "values": ["first", "second"]},
    "soundGeneration": {"text": "rain on a tin roof", "duration_seconds": 2},
    "textToSpeech": {"text": "Hello!"},
    "tokenize": {"model": "gpt-4o", "content": "Hello!"},
    "tts": {"input": "Hello!"},
}
"""Operation → its body."""
