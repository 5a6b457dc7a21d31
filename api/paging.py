"""Lists in pages, as OpenAI's are: a limit, an order, and where to go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BeforeValidator
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from deployments.errors import InvalidRequest

Key = TypeVar("Key", int, str)
Row = TypeVar("Row")


class Order(StrEnum):
    """By the time of creation."""

    ASC = "asc"
    DESC = "desc"


@dataclass(frozen=True, slots=True)
class Page(Generic[Key]):
    """A part of a list that is ordered by a key."""

    limit: int
    order: Order
    above: Key | None = None
    """Only what has a larger key."""
    below: Key | None = None


def from_cursors(limit: int, order: Order, after: Key | None, before: Key | None = None) -> Page[Key]:
    """The page behind the item `after` and in front of `before`, in this order."""
    return Page(limit, order, after, before) if order is Order.ASC else Page(limit, order, before, after)


def page_of(
    session: Session, wanted: Select[Row], key: InstrumentedAttribute[Key], page: Page[Key]
) -> tuple[Sequence[Row], bool]:
    """The rows of a page, and whether there are more behind it."""
    if page.above is not None:
        wanted = wanted.where(key > page.above)
    if page.below is not None:
        wanted = wanted.where(key < page.below)
    ordered = wanted.order_by(key.asc() if page.order is Order.ASC else key.desc()).limit(page.limit + 1)
    rows = session.scalars(ordered).all()
    return rows[: page.limit], len(rows) > page.limit


def whole_up_to(most: int) -> BeforeValidator:
    """Put beside the type of a query's `limit`: a whole number from 1 on, or InvalidRequest in LocalAI's words."""

    def check(value: Any) -> int:
        digits = str(value)
        if digits.isascii() and digits.isdigit() and len(digits) < 10 and 1 <= int(digits) <= most:
            return int(digits)
        raise InvalidRequest(f"Invalid limit query value: {digits[:64]}; expected 1 to {most}").at("limit")

    return BeforeValidator(check)
