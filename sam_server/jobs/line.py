"""The order in which those who wait get their turn: fair between clients, and between the sessions of each."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

# While work in the background waits, one turn in so many is its own: clicks go before a long search, and the search
# still ends.
BACKGROUND_EVERY = 4


@dataclass(frozen=True)
class Place:
    """Where in the line something stands.

    Attributes:
        client: whose turns are counted together, such as an API key.
        session: the same within the client.
        background: whether nobody waits for it at a screen.
    """

    client: str = ""
    session: str = ""
    background: bool = False


class _Lane(Generic[T]):
    """Turns go round the clients, and with each client round its sessions; each session is first come, first served."""

    def __init__(self) -> None:
        self.clients: OrderedDict[str, OrderedDict[str, deque[T]]] = OrderedDict()
        self.length = 0

    def push(self, place: Place, item: T) -> None:
        self.clients.setdefault(place.client, OrderedDict()).setdefault(place.session, deque()).append(item)
        self.length += 1

    def pop(self) -> T:
        client, sessions = next(iter(self.clients.items()))
        session, waiting = next(iter(sessions.items()))
        item = waiting[0]
        sessions.move_to_end(session)
        self.clients.move_to_end(client)
        self.remove(Place(client, session), item)
        return item

    def remove(self, place: Place, item: T) -> None:
        sessions = self.clients[place.client]
        sessions[place.session].remove(item)
        if not sessions[place.session]:
            del sessions[place.session]
        if not sessions:
            del self.clients[place.client]
        self.length -= 1

    def count(self, client: str, session: str | None = None) -> int:
        sessions = self.clients.get(client)
        if sessions is None:
            return 0
        return sum(len(waiting) for name, waiting in sessions.items() if session in (None, name))


class FairLine(Generic[T]):
    """Those who wait. Not safe to use from several threads: the gate locks it."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[Place, T]] = {}
        self._front: _Lane[T] = _Lane()
        self._background: _Lane[T] = _Lane()
        self._in_a_row = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._places)

    def length(self, background: bool) -> int:
        """How many wait in the background, or before it."""
        return self._lane(background).length

    def push(self, place: Place, item: T) -> None:
        """Put something into the line."""
        self._lane(place.background).push(place, item)
        self._places[id(item)] = (place, item)

    def pop(self) -> T | None:
        """Whose turn it is, taken out of the line; None where nobody waits."""
        waits = self._background.length > 0
        if self._front.length and not (waits and self._in_a_row >= BACKGROUND_EVERY - 1):
            self._in_a_row = self._in_a_row + 1 if waits else 0
            item = self._front.pop()
        elif waits:
            self._in_a_row = 0
            item = self._background.pop()
        else:
            return None
        del self._places[id(item)]
        return item

    def remove(self, item: T) -> bool:
        """Take something out of the line; False where it does not stand in it (any more)."""
        found = self._places.pop(id(item), None)
        if found is None:
            return False
        place, _ = found
        self._lane(place.background).remove(place, item)
        return True

    def take(self, wanted: Callable[[T], bool], count: int) -> list[T]:
        """Take out up to `count` of those that are wanted, those before the background first."""
        found: list[T] = []
        for _, (place, item) in sorted(self._places.items(), key=lambda entry: entry[1][0].background):
            if len(found) == count:
                break
            if wanted(item):
                found.append(item)
                self._lane(place.background).remove(place, item)
        for item in found:
            del self._places[id(item)]
        return found

    def who_makes_room(self, place: Place) -> T | None:
        """Who has to leave so that a full line is fair to a newcomer: the newest of the client (or, for the newcomer's
        own client, of the session) that has the most waiting; None where that would be no fairer."""
        clients = self._front.clients
        if not clients:
            return None
        heaviest = max(clients, key=self._front.count)
        sessions = clients[heaviest]
        session = max(sessions, key=lambda name: len(sessions[name]))
        if heaviest != place.client:
            is_fairer = self._front.count(heaviest) > self._front.count(place.client) + 1
        else:
            is_fairer = len(sessions[session]) > self._front.count(place.client, place.session) + 1
        return sessions[session][-1] if is_fairer else None

    def _lane(self, background: bool) -> _Lane[T]:
        return self._background if background else self._front
