"""Control tokens whose text a parser must see: the marks of tool calls and of reasoning."""

from collections.abc import Mapping

from deployments.backends.base import TextEngine


class Marks:
    """Those of one model's vocabulary. Engines give control tokens no text."""

    def __init__(self, engine: TextEngine) -> None:
        self._engine = engine
        self._shown: dict[frozenset[str], Mapping[int, bytes]] = {}

    def shown(self, marks: frozenset[str]) -> Mapping[int, bytes]:
        """Ids of the marks that are control tokens here → their text. Remembered: a model has a handful of sets."""
        if marks not in self._shown:
            ids = {mark: self._engine.tokenize(mark, add_bos=False, special=True) for mark in marks}
            self._shown[marks] = {
                id_[0]: mark.encode() for mark, id_ in ids.items() if len(id_) == 1 and not self._engine.detokenize(id_)
            }
        return self._shown[marks]
