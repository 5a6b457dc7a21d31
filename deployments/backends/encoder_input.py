"""How an encoder's input is put together: the special tokens around one text or two, and what is cut off."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deployments.backends.base import Tokens
from deployments.errors import ContextLengthExceeded, InvalidRequest


@dataclass(frozen=True, slots=True)
class InputTemplate:
    """The special tokens that a model wants around a text, or around the two texts of a pair."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...] = ()
    """After the first text of a pair, before the second."""
    keep_end: bool = False
    """A text that is too long loses its beginning instead of its end."""

    def singles(self, texts: Iterable[Sequence[int]], max_length: int, *, truncate: bool) -> list[Tokens]:
        """Each text alone.

        Raises ContextLengthExceeded with both numbers, unless `truncate`; InvalidRequest where no token is left at all.
        """
        return [self._single(ids, max_length, truncate, f"input[{index}]") for index, ids in enumerate(texts)]

    def pairs(
        self, query: Sequence[int], documents: Iterable[Sequence[int]], max_length: int, *, truncate: bool
    ) -> list[Tokens]:
        """Each document after the query. The document is cut; where the query alone leaves it no room, each gets half.

        Raises as `singles`.
        """
        return [
            self._pair(query, ids, max_length, truncate, f"documents[{index}] with the query")
            for index, ids in enumerate(documents)
        ]

    def _single(self, ids: Sequence[int], max_length: int, truncate: bool, name: str) -> Tokens:
        special = len(self.before) + len(self.after)
        length = special + len(ids)
        if length == 0:
            raise InvalidRequest(f"{name} has no tokens").at("input")
        if length <= max_length:
            return Tokens([*self.before, *ids, *self.after])
        _refuse_unless(truncate, name, length, max_length)
        return Tokens([*self.before, *self._cut(ids, max_length - special), *self.after], full_length=length)

    def _pair(self, first: Sequence[int], second: Sequence[int], max_length: int, truncate: bool, name: str) -> Tokens:
        special = len(self.before) + len(self.between) + len(self.after)
        length, full_length = special + len(first) + len(second), 0
        if length > max_length:
            _refuse_unless(truncate, name, length, max_length)
            full_length, room = length, max_length - special
            if len(first) >= room:
                first = self._cut(first, room // 2)
            second = self._cut(second, room - len(first))
        head = [*self.before, *first, *self.between]
        return Tokens([*head, *second, *self.after], second=len(head), full_length=full_length)

    def _cut(self, ids: Sequence[int], room: int) -> Sequence[int]:
        return ids[max(0, len(ids) - room) :] if self.keep_end else ids[:room]


def check_ids(ids: Sequence[int], size: int, index: int) -> None:
    """Ids that a client gives as input `index`. Raises InvalidRequest for one that the vocabulary hasn't."""
    if ids and (min(ids) < 0 or max(ids) >= size):
        wrong = next(token for token in ids if not 0 <= token < size)
        message = f"input[{index}]: {wrong} is no token of this model: ids go from 0 to {size - 1}"
        raise InvalidRequest(message).at("input")


def _refuse_unless(truncate: bool, name: str, length: int, max_length: int) -> None:
    if not truncate:
        raise ContextLengthExceeded(
            f"{name} has {length} tokens, and this model reads at most {max_length}; set truncate to have it cut"
        )
