"""What goes wrong with kept things: each error has a stable `code` and says what to change."""

from typing import Literal

Kind = Literal["session", "mask", "mask_set"]
Reason = Literal["expired", "evicted", "deleted"]

_ADVICE: dict[Kind, str] = {
    "session": "post the picture again",
    "mask": "send the prompt again without mask_id",
    "mask_set": "generate the masks again",
}


class SessionError(Exception):
    """Something that should be kept and is not; `code` is stable, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnknownIdError(SessionError):
    """An id that was never given out, or so long ago that nobody remembers."""

    def __init__(self, kind: Kind, name: str) -> None:
        super().__init__(f"unknown_{kind}", f"there is no {kind.replace('_', ' ')} {name[:64]!r}")


class ForgottenIdError(SessionError):
    """An id that was good once: it expired, was evicted for want of memory, or was deleted."""

    def __init__(self, kind: Kind, name: str, reason: Reason) -> None:
        message = f"the {kind.replace('_', ' ')} {name[:64]!r} was {_PAST[reason]}: {_ADVICE[kind]}"
        super().__init__(f"{kind}_{reason}", message)
        self.reason = reason


class OverBudgetError(SessionError):
    """One picture, with its mask sets, that alone is larger than the whole budget."""

    def __init__(self, needed: int, budget: int) -> None:
        message = (
            f"keeping this picture takes {needed:,} bytes and the cache holds {budget:,}: raise the cache's budget"
        )
        super().__init__("picture_over_budget", message)


class StoreAwayError(Exception):
    """The store that servers share does not answer, or refuses; `retry_after` says when to come again, in seconds."""

    def __init__(self, reason: str, retry_after: float = 2.0) -> None:
        super().__init__(f"the store that the servers share is away ({reason}): try again in a moment")
        self.retry_after = retry_after


_PAST: dict[Reason, str] = {
    "expired": "forgotten after a time without use",
    "evicted": "forgotten to make room for newer ones",
    "deleted": "deleted",
}
