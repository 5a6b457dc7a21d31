"""A grammar or JSON Schema as a constraint on the next token: a mask over the vocabulary, by llguidance."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark
from numpy.typing import NDArray

from deployments.backends.base import Generate
from deployments.errors import EngineError, InvalidRequest
from deployments.text.json_schema import guidance_schema

LONGEST_RUN_OF_DIGITS = 17
"""So many tell every double from its neighbours (IEEE 754, binary64). Small models go on for ever after `0.`"""

LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an output must match."""

    text: str
    """As `LLMatcher` reads it."""
    param: str
    """The request field that it comes from, to be named when it can't be followed."""
    is_json: bool = False

    def problem(self) -> str:
        """Why it can't be followed, whatever the vocabulary; empty: it can. Takes milliseconds."""
        return _short(LLMatcher.validate_grammar(self.text))


def grammar_of(request: Generate, *, gbnf: bool = True) -> Grammar | None:
    """The request's JSON Schema, Lark grammar or GBNF, the first that is there; None: there is none.

    `gbnf` False: the engine reads GBNF itself. Raises UnsupportedParameter that names the schema's keywords which we
    can't obey, and InvalidRequest for bad GBNF.
    """
    if request.json_schema is not None:
        return json_grammar(request.json_schema)
    if request.lark is not None:
        return lark_grammar(request.lark)
    if request.grammar and gbnf:
        return Grammar(LLMatcher.grammar_from_lark(lark_from_gbnf(request.grammar)), "grammar")
    return None


def json_grammar(schema: Mapping[str, Any], at: str = "response_format") -> Grammar:
    """Raises UnsupportedParameter at `at`."""
    text = json.dumps(guidance_schema(schema, at))  # keeps the order of properties
    return Grammar(LLMatcher.grammar_from_json_schema(text), at, is_json=True)


def lark_grammar(lark: str, at: str = "tools") -> Grammar:
    return Grammar(LLMatcher.grammar_from_lark(lark), at)


def lark_from_gbnf(gbnf: str) -> str:
    """llama.cpp's grammar format as llguidance's Lark. Raises InvalidRequest at `grammar`."""
    try:
        return gbnf_to_lark(gbnf)
    except RecursionError:
        raise InvalidRequest("the grammar's groups are nested too deeply").at("grammar") from None
    except Exception as error:  # noqa: BLE001 – of this very class are the converter's complaints
        raise InvalidRequest(f"the grammar is not valid GBNF: {_short(str(error))}").at("grammar") from None


class TokenConstraint:
    """The output so far, and what may follow so that it matches a grammar."""

    def __init__(self, tokenizer: LLTokenizer, grammar: Grammar) -> None:
        """Compiling takes milliseconds. Raises InvalidRequest at the grammar's request field."""
        self._tokenizer = tokenizer
        self._matcher = LLMatcher(tokenizer, grammar.text, log_level=0)
        self._numbers = _JsonNumbers() if grammar.is_json else None
        self._bits = np.zeros((tokenizer.vocab_size + 31) // 32, np.uint32)
        if self._matcher.is_error():
            what = "JSON Schema" if grammar.is_json else "grammar"
            problem = _short(self._matcher.get_error())
            raise InvalidRequest(f"this {what} can't be followed: {problem}").at(grammar.param)
        self.finished = False
        """The output is complete, and nothing but the end can follow."""

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Write -inf at every token that may not follow. `logits` [vocabulary size, or more]."""
        np.copyto(logits, -np.inf, where=self.forbidden(logits.size))

    def forbidden(self, size: int) -> NDArray[np.bool_]:
        """[size], True for every token that may not follow; ids from the vocabulary's size on never may."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise EngineError(f"the output's constraint failed: {_short(self._matcher.get_error())}")
        if self._numbers is not None and self._numbers.digits >= LONGEST_RUN_OF_DIGITS:
            self._end_the_number()
        flags = np.unpackbits(np.invert(self._bits).view(np.uint8), bitorder="little").view(np.bool_)
        if size <= flags.size:
            return flags[:size]
        return np.concatenate([flags, np.ones(size - flags.size, np.bool_)])

    def accept(self, token: int) -> None:
        """`token` was chosen."""
        if not self._matcher.consume_token(token):
            raise EngineError(f"the output's constraint does not allow token {token}")
        if self._numbers is not None:
            self._numbers.read(self._tokenizer.decode_bytes([token]))
        self.finished = self._matcher.is_stopped()

    def replay(self, tokens: Iterable[int]) -> None:
        """`tokens` were chosen before, elsewhere."""
        for token in tokens:
            self.accept(token)

    def _end_the_number(self) -> None:
        """Take digits out of what is allowed, unless nothing else is."""
        allowed = np.flatnonzero(np.unpackbits(self._bits.view(np.uint8), bitorder="little"))
        digits = [token for token in allowed.tolist() if self._tokenizer.decode_bytes([token])[:1].isdigit()]
        if len(digits) < len(allowed):
            for token in digits:
                self._bits[token // 32] &= ~np.uint32(1 << token % 32)


class _JsonNumbers:
    """Reads JSON as it is written and counts the digits at its end that belong to a number."""

    def __init__(self) -> None:
        self.digits = 0
        self._in_string = False
        self._escaped = False

    def read(self, text: bytes) -> None:
        for char in text:
            if self._in_string:
                self._in_string = self._escaped or char != ord('"')
                self._escaped = not self._escaped and char == ord("\\")
                continue
            self._in_string = char == ord('"')
            self.digits = self.digits + 1 if ord("0") <= char <= ord("9") else 0


def _short(error: str) -> str:
    """llguidance's errors may go on for pages."""
    words = " ".join(error.split())
    return words if len(words) <= LONGEST_ERROR else f"{words[:LONGEST_ERROR]}…"
