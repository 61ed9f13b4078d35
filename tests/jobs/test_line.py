"""The line: round the clients, round the sessions of each, and the background between them."""

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sam_server.jobs.line import BACKGROUND_EVERY, FairLine, Place


@dataclass(eq=False)
class Item:
    """Something that waits."""

    name: str


def fill(line: FairLine[Item], *names: str, background: bool = False) -> list[Item]:
    """Put items such as "ann/s1/first" into the line."""
    items = [Item(name) for name in names]
    for item in items:
        client, session, _ = item.name.split("/")
        line.push(Place(client, session, background), item)
    return items


def drain(line: FairLine[Item]) -> list[str]:
    found = []
    while (item := line.pop()) is not None:
        found.append(item.name)
    return found


def test_turns_go_round_the_clients():
    line: FairLine[Item] = FairLine()
    fill(line, "ann/s/1", "ann/s/2", "ann/s/3", "bob/s/1", "carl/s/1", "bob/s/2")
    assert drain(line) == ["ann/s/1", "bob/s/1", "carl/s/1", "ann/s/2", "bob/s/2", "ann/s/3"]


def test_and_round_the_sessions_of_each():
    line: FairLine[Item] = FairLine()
    fill(line, "ann/a/1", "ann/a/2", "ann/b/1", "bob/c/1", "ann/b/2")
    assert drain(line) == ["ann/a/1", "bob/c/1", "ann/b/1", "ann/a/2", "ann/b/2"]


def test_whoever_comes_next_goes_before_the_second_of_a_busy_client():
    line: FairLine[Item] = FairLine()
    fill(line, *(f"busy/s/{number}" for number in range(50)))
    assert line.pop().name == "busy/s/0"
    fill(line, "ann/s/1")
    assert [line.pop().name for _ in range(2)] == ["busy/s/1", "ann/s/1"]


def test_the_background_has_its_share_and_no_more():
    line: FairLine[Item] = FairLine()
    fill(line, *(f"ann/s/{number}" for number in range(9)))
    fill(line, *(f"job/s/{number}" for number in range(5)), background=True)
    turns = "".join("b" if name.startswith("job") else "f" for name in drain(line))
    assert BACKGROUND_EVERY == 4
    assert turns == "fffbfffbfffbbb"


def test_what_left_the_line_is_not_in_it():
    line: FairLine[Item] = FairLine()
    first, second, third = fill(line, "ann/s/1", "ann/s/2", "bob/s/1")
    assert line.remove(second)
    assert not line.remove(second)
    assert (len(line), line.length(background=False), line.length(background=True)) == (2, 2, 0)
    assert drain(line) == [first.name, third.name]
    assert line.pop() is None


def test_some_are_taken_out_together_those_in_front_first():
    line: FairLine[Item] = FairLine()
    fill(line, "job/s/yes1", background=True)
    fill(line, "ann/s/no", "ann/s/yes2", "bob/s/yes3", "bob/s/yes4")
    taken = line.take(lambda item: "yes" in item.name, 3)
    assert [item.name for item in taken] == ["ann/s/yes2", "bob/s/yes3", "bob/s/yes4"]
    assert drain(line) == ["ann/s/no", "job/s/yes1"]


def test_who_makes_room_for_a_newcomer():
    line: FairLine[Item] = FairLine()
    assert line.who_makes_room(Place("ann")) is None
    fill(line, "busy/a/1", "busy/a/2", "busy/a/3", "busy/b/1", "ann/s/1")
    assert line.who_makes_room(Place("bob", "s")).name == "busy/a/3"
    assert line.who_makes_room(Place("ann", "s")).name == "busy/a/3"
    # The busy client itself gains nothing but for a session of its own that has less.
    assert line.who_makes_room(Place("busy", "a")) is None
    assert line.who_makes_room(Place("busy", "c")).name == "busy/a/3"
    fill(line, "busy/b/2")
    assert line.who_makes_room(Place("busy", "b")) is None


PLACES = st.builds(Place, st.sampled_from("abc"), st.sampled_from("xy"), st.booleans())


@given(st.lists(PLACES, max_size=60))
def test_everything_comes_out_once_and_each_session_in_its_order(places):
    line: FairLine[Item] = FairLine()
    names = [f"{number}" for number in range(len(places))]
    for place, name in zip(places, names, strict=True):
        line.push(place, Item(name))
    found = drain(line)
    assert sorted(found, key=int) == names
    assert len(line) == 0
    for place in set(places):
        numbers = [int(name) for name in found if places[int(name)] == place]
        assert numbers == sorted(numbers)
    # Nobody waits for more turns than there are clients and a turn of the background between any two.
    front = [places[int(name)].client for name in found if not places[int(name)].background]
    for client in set(front):
        turns = [index for index, name in enumerate(front) if name == client]
        assert all(after - before <= 3 for before, after in pairwise(turns))
