"""Functions that Go templates may call: text/template's own, and the part of sprig that model files use."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Struct(dict[str, Any]):
    """A Go struct: asking for a field that it doesn't have is an error, where a map gives no value."""


def to_text(value: Any) -> str:
    """What Go's `fmt.Print` writes."""
    match value:
        case str():
            return value
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        case Struct():
            return "{" + " ".join(map(to_text, value.values())) + "}"
        case Mapping():
            return "map[" + " ".join(f"{to_text(key)}:{to_text(value[key])}" for key in sorted(value)) + "]"
        case list() | tuple():
            return "[" + " ".join(map(to_text, value)) + "]"
        case _:
            return str(value)


def truth(value: Any) -> bool:
    """Go's: false, 0, nil and whatever is empty are false; a struct is always true."""
    return isinstance(value, Struct) or bool(value)


_VERB = re.compile(r"%(?P<flags>[-+ 0#]*)(?P<width>\d*)(?P<precision>(?:\.\d*)?)(?P<verb>[a-zA-Z%])")


def _printf(form: str, *values: Any) -> str:
    """Go's verbs %v %s %q %d %x %t %f %e %g; a missing or unfit value is written into the text, as Go does."""
    rest = list(values)

    def written(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        try:
            match verb:
                case "v" | "s" | "t":
                    return f"%{match['flags']}{match['width']}{match['precision']}s" % to_text(value)
                case "q":
                    return _quote(value)
                case "d" | "x" | "X" | "f" | "e" | "g":
                    return str(f"%{match['flags']}{match['width']}{match['precision']}{verb}" % value)
        except (TypeError, ValueError):
            pass  # written below
        return f"%!{verb}({to_text(value)})"

    text = _VERB.sub(written, form)
    return f"{text}%!(EXTRA {', '.join(map(to_text, rest))})" if rest else text


def _print(*values: Any) -> str:
    """A space between two operands when neither is a string."""
    text, previous = "", None
    for i, value in enumerate(values):
        if i and not isinstance(value, str) and not isinstance(previous, str):
            text += " "
        text += to_text(value)
        previous = value
    return text


def _equal(first: Any, *others: Any) -> bool:
    return any(_comparable(first, other) and first == other for other in others)


def _comparable(a: Any, b: Any) -> bool:
    """Raises TypeError when Go would not compare the two."""
    if a is None or b is None:
        return True
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b)]
    if not all(numbers) and type(a) is not type(b):
        raise TypeError("incompatible types for comparison")
    return True


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda a, b: _comparable(a, b) and compare(a, b)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, Sequence) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            raise IndexError(f"index out of range or not indexable: {to_text(key)}")
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    """Go's json.Marshal: sorted keys, no spaces, and <, > and & escaped."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(_tagged(value), ensure_ascii=False, indent=indent, separators=separators)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


_JSON_NAMES = {"FunctionCall": "function"}
"""Fields of LocalAI's structs whose JSON name isn't just the lower-case one."""


def _tagged(value: Any) -> Any:
    """A struct in the order of its fields, under its JSON names; maps sorted by key."""
    match value:
        case Struct():
            return {_JSON_NAMES.get(key, key.lower()): _tagged(item) for key, item in value.items()}
        case Mapping():
            return {key: _tagged(value[key]) for key in sorted(value)}
        case list() | tuple():
            return [_tagged(item) for item in value]
        case _:
            return value


def _quote(*values: Any) -> str:
    return " ".join(json.dumps(to_text(value), ensure_ascii=False) for value in values if value is not None)


def _indent(spaces: int, text: str) -> str:
    return " " * spaces + text.replace("\n", "\n" + " " * spaces)


def _title(text: str) -> str:
    return re.sub(r"(?:^|(?<=\s))\S", lambda found: found[0].upper(), text)


def _dict(*pairs: Any) -> dict[str, Any]:
    return {to_text(pairs[i]): pairs[i + 1] if i + 1 < len(pairs) else "" for i in range(0, len(pairs), 2)}


LAZY: dict[str, bool] = {"and": False, "or": True}
"""Functions that stop at the first argument of this truth and return it; without one, the last argument."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    # text/template
    "eq": _equal,
    "ge": _ordered(lambda a, b: a >= b),
    "gt": _ordered(lambda a, b: a > b),
    "index": _index,
    "le": _ordered(lambda a, b: a <= b),
    "len": lambda value: len(value.encode() if isinstance(value, str) else value),
    "lt": _ordered(lambda a, b: a < b),
    "ne": lambda a, b: not _equal(a, b),
    "not": lambda value: not truth(value),
    "print": _print,
    "printf": _printf,
    "println": lambda *values: " ".join(map(to_text, values)) + "\n",
    "slice": lambda value, low=0, high=None: value[low:high],
    # sprig: texts
    "cat": lambda *values: " ".join(map(to_text, values)),
    "contains": lambda part, text: part in text,
    "hasPrefix": lambda prefix, text: text.startswith(prefix),
    "hasSuffix": lambda suffix, text: text.endswith(suffix),
    "indent": _indent,
    "lower": str.lower,
    "nindent": lambda spaces, text: "\n" + _indent(spaces, text),
    "nospace": lambda text: re.sub(r"\s", "", text),
    "quote": _quote,
    "repeat": lambda count, text: text * count,
    "replace": lambda old, new, text: text.replace(old, new),
    "splitList": lambda separator, text: text.split(separator),
    "squote": lambda *values: " ".join(f"'{to_text(value)}'" for value in values),
    "title": _title,
    "toString": to_text,
    "trim": str.strip,
    "trimAll": lambda characters, text: text.strip(characters),
    "trimPrefix": lambda prefix, text: text.removeprefix(prefix),
    "trimSuffix": lambda suffix, text: text.removesuffix(suffix),
    "trunc": lambda count, text: text[:count] if count >= 0 else text[count:],
    "upper": str.upper,
    # sprig: lists and maps
    "dict": _dict,
    "first": lambda items: items[0] if items else None,
    "get": lambda mapping, key: mapping.get(key, ""),
    "has": lambda item, items: item in items,
    "hasKey": lambda mapping, key: key in mapping,
    "initial": lambda items: items[:-1],
    "join": lambda separator, items: separator.join(map(to_text, items)),
    "keys": sorted,
    "last": lambda items: items[-1] if items else None,
    "list": lambda *items: list(items),
    "rest": lambda items: items[1:],
    # sprig: defaults, JSON, numbers
    "add": lambda *numbers: sum(map(int, numbers)),
    "add1": lambda number: int(number) + 1,
    "coalesce": lambda *values: next((value for value in values if truth(value)), None),
    "default": lambda fallback, value=None: value if truth(value) else fallback,
    "empty": lambda value: not truth(value),
    "fromJson": json.loads,
    "int": int,
    "mod": lambda a, b: int(a) % int(b),
    "mul": lambda a, b: int(a) * int(b),
    "sub": lambda a, b: int(a) - int(b),
    "ternary": lambda yes, no, condition: yes if condition else no,
    "toJson": to_json,
    "toPrettyJson": lambda value: to_json(value, 2),
}
