"""What is wrong with a request to group masks."""

from collections.abc import Iterable


class GroupingError(ValueError):
    """Parameters that make no sense, or masks that lack what a method needs; `field` names where."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def check_range(field: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Raise GroupingError unless value is None or within low..high; NaN is outside."""
    if value is not None and not low <= value <= high:
        wanted = f"between {low:g} and {high:g}" if high != float("inf") else f"{low:g} or more"
        raise GroupingError(f"{field} must be {wanted}, not {value!r}", field)


def check_choice(field: str, value: str, choices: Iterable[str]) -> None:
    """Raise GroupingError unless value is one of the choices."""
    options = tuple(choices)
    if value not in options:
        raise GroupingError(f"{field} must be one of {', '.join(options)}, not {value!r}", field)
