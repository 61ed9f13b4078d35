"""Clients that click, bring pictures and search them, and know every answer beforehand."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import requests
from skimage import data

CLICK, PICTURE, SEARCH = "click", "new picture", "automatic"
# How often each happens, of a hundred.
MIX = {CLICK: 84, PICTURE: 10, SEARCH: 6}
SHARED_PICTURES = 4
POINTS = 4
# Pictures that are new each time; a client has one of them to itself, or shares it with few others.
NEW_PICTURES = 16
SEARCH_PARAMETERS = {"points_per_side": 6, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5}
REQUEST_SECONDS = 300.0
PNG = {"Content-Type": "image/png"}
# Members of an answer that differ from one request to the next.
_OWN = ("session_id", "mask_set_id", "mask_id", "expires_at", "cached")


@dataclass(frozen=True)
class Heard:
    """One answer.

    Attributes:
        kind: row of MIX.
        status: HTTP status; 0 where the connection broke.
        seconds: from the first byte sent to the last one read.
        wrong: what is wrong with it, or None.
    """

    kind: str
    status: int
    seconds: float
    wrong: str | None = None


@dataclass(frozen=True)
class Task:
    """One request whose answer is known.

    Attributes:
        kind: row of MIX.
        picture: the file.
        point: where to click; None for an automatic search.
        expected: the answer that it had alone, without its ids.
    """

    kind: str
    picture: bytes
    point: tuple[int, int] | None
    expected: Any = None


def make_pictures(number: int) -> list[bytes]:
    """So many different pictures: the coins, moved and with a mark."""
    coins = data.coins()
    files = []
    for index in range(number):
        moved = np.roll(coins, (3 * index, 5 * index), axis=(0, 1))
        moved[:4, : index % 300 + 1] = 255
        files.append(cv2.imencode(".png", moved)[1].tobytes())
    return files


def make_tasks(clients: int) -> list[Task]:
    """Clicks on shared pictures, pictures that are new, and searches; without their answers."""
    pictures = make_pictures(SHARED_PICTURES + min(clients, NEW_PICTURES))
    shared, own = pictures[:SHARED_PICTURES], pictures[SHARED_PICTURES:]
    points = [(60 + 84 * index, 50 + 66 * index) for index in range(POINTS)]
    clicks = [Task(CLICK, picture, point) for picture, point in itertools.product(shared, points)]
    return [*clicks, *(Task(PICTURE, picture, points[2]) for picture in own), *(Task(SEARCH, p, None) for p in shared)]


def without_ids(document: Any) -> Any:
    """An answer without what differs from one request to the next."""
    if isinstance(document, dict):
        return {name: without_ids(value) for name, value in document.items() if name not in _OWN}
    return [without_ids(value) for value in document] if isinstance(document, list) else document


class Client:
    """One connection to a server.

    Args:
        url: of the server.
        sessions: of the shared pictures, by file.
    """

    def __init__(self, url: str, sessions: dict[bytes, str] | None = None) -> None:
        self._url = url
        self._sessions = sessions or {}
        self._line = requests.Session()
        self._line.trust_env = False  # no proxy on the way

    def run(self, task: Task) -> Heard:
        """Do a task and compare its answer."""
        try:
            answer, seconds = self._do(task)
        except requests.RequestException as error:
            return Heard(task.kind, 0, 0.0, type(error).__name__)
        return Heard(task.kind, answer.status_code, seconds, _fault(answer, task.expected))

    def answer_alone(self, task: Task) -> Any:
        """The answer to a task, for `Task.expected`."""
        answer, _ = self._do(task)
        answer.raise_for_status()
        return without_ids(answer.json())

    def open_session(self, picture: bytes) -> str:
        """A session on a picture."""
        answer = self._line.post(f"{self._url}/sessions", data=picture, headers=PNG, timeout=REQUEST_SECONDS)
        answer.raise_for_status()
        return str(answer.json()["session_id"])

    def _do(self, task: Task) -> tuple[requests.Response, float]:
        if task.kind == CLICK:
            body = {"session_id": self._sessions[task.picture], "points": [task.point], "multimask_output": False}
            return self._post("/segment", json=body)
        if task.kind == PICTURE:
            query = {"points": f"[{list(task.point or ())}]"}
            answer, seconds = self._post("/segment", data=task.picture, headers=PNG, params=query)
        else:
            answer, seconds = self._post("/generate_masks", data=task.picture, headers=PNG, params=SEARCH_PARAMETERS)
        if answer.ok:  # so that the picture is new next time, and nothing is kept
            self._line.delete(f"{self._url}/sessions/{answer.json()['session_id']}", timeout=REQUEST_SECONDS)
        return answer, seconds

    def _post(self, path: str, **options: Any) -> tuple[requests.Response, float]:
        started = time.perf_counter()
        answer = self._line.post(self._url + path, timeout=REQUEST_SECONDS, **options)
        return answer, time.perf_counter() - started


def _fault(answer: requests.Response, expected: Any) -> str | None:
    """What is wrong with an answer: an honest 503 says when to come again, and everything else must be as expected."""
    if answer.status_code == requests.codes.service_unavailable:
        return None if answer.headers.get("Retry-After", "").isdigit() else "503 without Retry-After"
    if not answer.ok:
        return f"{answer.status_code} {answer.text[:200]}"
    return None if without_ids(answer.json()) == expected else "another answer than alone"


@dataclass
class Load:
    """Clients at work.

    Attributes:
        heard: every answer so far.
    """

    url: str
    tasks: list[Task]
    sessions: dict[bytes, str]
    seed: int = 0
    heard: list[Heard] = field(default_factory=list)

    def run(self, clients: int, seconds: float, rate: float | None, meanwhile: Callable[[], object]) -> None:
        """Let clients work side by side.

        Args:
            clients: how many.
            seconds: for how long new requests begin.
            rate: requests per second of all clients together; None for as many as they can.
            meanwhile: called about once a second.
        """
        end = time.monotonic() + seconds
        pause = 0.0 if rate is None else clients / rate
        threads = [threading.Thread(target=self._work, args=(number, clients, end, pause)) for number in range(clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            meanwhile()
            time.sleep(min(1.0, max(0.1, end - time.monotonic())))

    def _work(self, number: int, clients: int, end: float, pause: float) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        client = Client(self.url, self.sessions)
        time.sleep(pause * number / clients)
        for task in self.draw(rng, number):
            if time.monotonic() >= end:
                return
            started = time.monotonic()
            heard = client.run(task)
            self.heard.append(heard)
            if heard.status == requests.codes.service_unavailable:
                time.sleep(1.0)
            time.sleep(max(0.0, min(started + pause, end) - time.monotonic()))

    def draw(self, rng: random.Random, number: int) -> Iterator[Task]:
        """Tasks for ever; a client's new picture is always the same one, which is forgotten after each time."""
        by_kind = {kind: [task for task in self.tasks if task.kind == kind] for kind in MIX}
        by_kind[PICTURE] = [by_kind[PICTURE][number % len(by_kind[PICTURE])]]
        while True:
            yield rng.choice(by_kind[rng.choices(list(MIX), list(MIX.values()))[0]])


def prepare(url: str, clients: int) -> Load:
    """Ask every question alone, and open the sessions that all clients click on."""
    asker = Client(url)
    tasks = make_tasks(clients)
    shared = dict.fromkeys(task.picture for task in tasks if task.kind == CLICK)
    sessions = {picture: asker.open_session(picture) for picture in shared}
    alone = Client(url, sessions)
    answered = [Task(task.kind, task.picture, task.point, alone.answer_alone(task)) for task in tasks]
    return Load(url, answered, sessions)
