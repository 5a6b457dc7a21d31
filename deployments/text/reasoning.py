"""Reasoning between tags, split from the answer: a table of the families' tags, and the splitter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from deployments.config import ModelConfig
from deployments.text.decoding import overlap
from deployments.text.tool_parsing import control_marks


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The tags of a family of models."""

    start: str
    end: str
    template: tuple[str, ...]
    """Texts of which the model's chat template holds one."""

    @property
    def tags(self) -> tuple[str, str]:
        return self.start, self.end


FORMATS: Mapping[str, ReasoningFormat] = {
    "think": ReasoningFormat("<think>", "</think>", ("<think>", "</think>")),
    "thinking": ReasoningFormat("<thinking>", "</thinking>", ("<thinking>", "</thinking>")),
    "thought": ReasoningFormat("<thought>", "</thought>", ("<thought>", "</thought>")),
    "mistral": ReasoningFormat("[THINK]", "[/THINK]", ("[THINK]", "[/THINK]")),
    "seed-oss": ReasoningFormat("<seed:think>", "</seed:think>", ("<seed:think>", "</seed:think>")),
    "command-r7b": ReasoningFormat("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_THINKING|>",)),
    "apertus": ReasoningFormat("<|inner_prefix|>", "<|inner_suffix|>", ("<|inner_prefix|>",)),
    "granite": ReasoningFormat("Here is my thought process:", "Here is my response:", ("Here is my thought process:",)),
}
"""DeepSeek R1, Qwen3, QwQ, GLM 4.5, MiniMax and most others use `think`. The first row that fits a template counts."""

OFF = "none"
"""`reasoning_format` of a model whose text is not to be split."""


class _Part(Enum):
    START = auto()
    REASONING = auto()
    GAP = auto()
    """White space between the reasoning and the content."""
    CONTENT = auto()


class ReasoningSplitter:
    """Takes the reasoning from the start of an answer; what follows is content, tags in it too.

    White space next to a tag belongs to neither. An answer that ends before the closing tag has no content.
    """

    def __init__(self, tags: Sequence[tuple[str, str]], *, opened: str = "", keep: bool = True) -> None:
        """`tags`: pairs of start and end. `opened`: the start that the prompt ends in. `keep` False: it is dropped."""
        self.marks = control_marks(tag for pair in tags for tag in pair)
        """Tags that are control tokens in some vocabularies."""
        self._ends = dict(tags)
        self._opened = opened
        self._end = self._ends[opened] if opened else ""
        self._keep = keep
        self._part = _Part.START
        self._held = ""
        self._began = False
        """Some reasoning that isn't white space has come."""

    @property
    def closing(self) -> str:
        """The tag that ends what the prompt has opened; empty: it has opened nothing."""
        return self._ends[self._opened] if self._opened else ""

    def push(self, text: str) -> tuple[str, str]:
        """Reasoning and content that this text makes ready. Held back: what may be the start of a tag."""
        self._held += text
        return self._split(ended=False)

    def finish(self) -> tuple[str, str]:
        """There is no more text."""
        return self._split(ended=True)

    def _split(self, *, ended: bool) -> tuple[str, str]:
        reasoning = content = ""
        if self._part is _Part.START:
            self._start(ended)
        if self._part is _Part.REASONING:
            reasoning = self._reasoning(ended)
        if self._part is _Part.GAP and (rest := self._held.lstrip()):
            self._part, self._held = _Part.CONTENT, rest
        if self._part is _Part.CONTENT:
            content, self._held = self._held, ""
        return reasoning if self._keep else "", content

    def _start(self, ended: bool) -> None:
        rest = self._held.lstrip()
        tag = next((start for start in self._ends if rest.startswith(start)), "")
        if tag:
            self._part, self._end, self._held = _Part.REASONING, self._ends[tag], rest[len(tag) :]
        elif ended or not any(start.startswith(rest) for start in self._ends):
            self._part = _Part.REASONING if self._opened else _Part.CONTENT

    def _reasoning(self, ended: bool) -> str:
        at = self._held.find(self._end)
        cut = at if at >= 0 else len(self._held) - (0 if ended else overlap(self._held, self._end))
        text = self._held[:cut] if self._began else self._held[:cut].lstrip()
        said = text.rstrip()
        self._began |= bool(said)
        if at >= 0:
            self._part, self._held = _Part.GAP, self._held[at + len(self._end) :]
        else:
            self._held = text[len(said) :] + self._held[cut:]
        return said


def splitter_for(config: ModelConfig, chat_template: str | None, prompt_text: str) -> ReasoningSplitter | None:
    """For one answer to this prompt. None: there are no tags to look for."""
    own = config.reasoning
    if own.disable or config.reasoning_format == OFF:
        return None
    tags = [(pair.start, pair.end) for pair in own.tag_pairs or []]
    if config.reasoning_format:
        tags.append(FORMATS[config.reasoning_format].tags)
    elif not tags:
        templates = (config.template.chat or "") + (chat_template or "")
        tags += [row.tags for row in FORMATS.values() if any(text in templates for text in row.template)][:1]
    if not tags:
        return None
    prompt = prompt_text.rstrip()
    opened = next((start for start, _ in tags if prompt.endswith(start)), "")
    return ReasoningSplitter(tags, opened=opened, keep=not own.strip_reasoning_only)
