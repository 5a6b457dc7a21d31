"""Where a bracketed piece of JSON or Python, or a string, ends in text that comes in pieces."""

import re

_OPENING, _CLOSING = "([{", ")]}"


class Nesting:
    """Counts brackets outside of strings. Nothing else is checked."""

    def __init__(self, quotes: str = '"') -> None:
        """`quotes`: what strings stand between."""
        self._outside = re.compile(f"[{re.escape(_OPENING + _CLOSING + quotes)}]")
        self._depth = 0
        self._quote = ""
        """Of the string that is open."""
        self._escaped = False
        """The text ended in a backslash."""

    def end(self, text: str, start: int) -> int | None:
        """Read on, from `start`. Behind what closes the bracket or string that was opened first; None: not yet."""
        at = start
        while at < len(text):
            if self._escaped:
                self._escaped, at = False, at + 1
            elif self._quote:
                at = self._in_string(text, at)
                if not (self._quote or self._depth):
                    return at
            elif (match := self._outside.search(text, at)) is None:
                return None
            else:
                at = match.end()
                if self._bracket(match.group()):
                    return at
        return None

    def _in_string(self, text: str, at: int) -> int:
        ends = [end for end in (text.find(self._quote, at), text.find("\\", at)) if end >= 0]
        if not ends:
            return len(text)
        if text[min(ends)] == "\\":
            self._escaped = True
        else:
            self._quote = ""
        return min(ends) + 1

    def _bracket(self, character: str) -> bool:
        """Whether it closes the first one."""
        if character in _OPENING:
            self._depth += 1
        elif character in _CLOSING:
            self._depth -= 1
            return self._depth <= 0
        else:
            self._quote = character
        return False
