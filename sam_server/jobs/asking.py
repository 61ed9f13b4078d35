"""On whose behalf the current thread works: whose turn it is in the queue, and how long it is worth waiting."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


def _never() -> bool:
    return False


def _nothing(_: float) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Asker:
    """Who asks for the model's time.

    Attributes:
        client: whose turns are counted together, such as the owner of an API key.
        session: the same within the client; empty for what belongs to none.
        deadline: seconds of `time.monotonic` after which the answer is worth nothing; None for no end.
        is_gone: tells whether nobody waits for the answer any more.
        waited: told how many seconds a turn was waited for.
    """

    client: str = ""
    session: str = ""
    deadline: float | None = None
    is_gone: Callable[[], bool] = _never
    waited: Callable[[float], None] = _nothing


# The asker of the current thread; work that nobody waits for at a screen has none of its own.
asker: ContextVar[Asker] = ContextVar("asker", default=Asker())  # noqa: B039, it is frozen


@contextmanager
def asking(who: Asker) -> Iterator[None]:
    """Work on somebody's behalf within the `with` block."""
    token = asker.set(who)
    try:
        yield
    finally:
        asker.reset(token)
