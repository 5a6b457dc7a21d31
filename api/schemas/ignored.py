"""Request fields that are accepted and change nothing: the table, and the log line that says so once."""

import logging
from collections.abc import Iterable

log = logging.getLogger(__name__)

_REASONS: dict[str, str] = {
    "nothing is kept about end users": "user safety_identifier prompt_cache_key prompt_cache_retention",
    "answers are not stored": "store",
    "there is one tier of service": "service_tier",
    "the model writes as much as it likes": "verbosity",
    "the whole answer is generated": "prediction",
    "chunks are never padded": "include_obfuscation",
    "the model's config says it": "backend model_base_name n_keep batch rope_freq_base rope_freq_scale "
    "use_fast_tokenizer tokenizer f16 clip_skip",
    "images are painted as the prompt says": "style moderation input_fidelity complexity",
    "a document is read up to the model's length, in one piece": "max_tokens_per_doc max_chunks_per_doc "
    "max_doc_length overlap_tokens",
    "llama.cpp no longer has this option": "tfz",
    "it is for images": "step mode size negative_prompt negative_prompt_scale quality file files ref_images",
    "it is for audio": "language translate",
    "a voice speaks as it was trained to": "instructions params sample_rate previous_text next_text "
    "apply_text_normalization pronunciation_dictionary_locators stability similarity_boost style use_speaker_boost",
    "speakers are not told apart": "diarize known_speaker_names known_speaker_references",
    "transcripts have no logprobs of tokens": "include",
    "the backend cuts long audio as suits it": "chunking_strategy",
    "files are kept until they are deleted": "expires_after[anchor] expires_after[seconds]",
    "nothing runs the assistants that are kept here": "tool_resources",
    "sounds are not made to fit end to start": "loop",
}

IGNORED_FIELDS: dict[str, str] = {field: reason for reason, fields in _REASONS.items() for field in fields.split()}
"""Field of OpenAI's or LocalAI's schema → why it changes nothing. One that gets a meaning leaves the table."""

_MOST_REPORTED = 500
"""Clients choose the names: the memory of those reported is bounded."""

_reported: set[str] = set()


def report_ignored(fields: Iterable[str]) -> None:
    """Log each field that changes nothing, when first seen by this process."""
    for field in fields:
        if field in _reported or len(_reported) >= _MOST_REPORTED:
            continue
        _reported.add(field)
        reason = IGNORED_FIELDS.get(field, "no such field is known")
        log.warning("request field %.64r is accepted and changes nothing: %s", field, reason)
