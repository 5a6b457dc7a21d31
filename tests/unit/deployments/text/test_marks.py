"""Which control tokens are shown."""

from deployments.text.marks import Marks

VOCABULARY = {"<tool_call>": 1, "</tool_call>": 2, "word": 3}


class Vocabulary:
    """An engine whose tokens 1 and 2 are control tokens; other texts are a token a character."""

    def __init__(self) -> None:
        self.tokenized: list[str] = []

    def tokenize(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        assert special and not add_bos
        self.tokenized.append(text)
        return [VOCABULARY[text]] if text in VOCABULARY else list(text.encode())

    def detokenize(self, tokens: list[int]) -> bytes:
        return b"" if tokens[0] < 3 else b"text"


def test_only_marks_that_have_no_text_of_their_own_are_shown() -> None:
    engine = Vocabulary()
    marks = Marks(engine)  # type: ignore[arg-type]
    wanted = frozenset({"<tool_call>", "</tool_call>", "word", "<|python_tag|>"})
    assert marks.shown(wanted) == {1: b"<tool_call>", 2: b"</tool_call>"}
    assert marks.shown(frozenset()) == {}
    count = len(engine.tokenized)
    marks.shown(wanted)
    assert len(engine.tokenized) == count, "remembered"
