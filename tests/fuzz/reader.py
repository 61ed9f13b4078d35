"""Gives damaged pictures to the reader in a process whose memory is limited, and says what came out.

    python -m tests.fuzz.reader --count 10000 --seed 0      a run; a line of JSON at its end
    python -m tests.fuzz.reader --only 4711 --write x.png   one case again, kept as a file

A case is known by its seed and its number. Whatever is not a picture or an error that the reader documents ends the
run: another exception, a crash, a case that takes too long, too much memory.
"""

import argparse
import faulthandler
import json
import random
import resource
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from sam_server import images
from sam_server.images import ImageError, ImageLimits
from tests.fuzz.corpus import make_corpus
from tests.fuzz.mutate import mutate

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000)
# Address space beside what is in use when the run starts. More than the first is a failure, though the system would
# give it; beyond the second the system refuses. A deep picture of a million pixels needs some 100 MB.
ALLOWED_BYTES = 384 << 20
HARD_BYTES = 4 << 30
# A case that takes longer hangs, in seconds; the watchdog then prints where and ends the process.
HANG_SECONDS = 60.0


class FuzzFailureError(Exception):
    """The reader did what it must not do."""


def address_space(name: str) -> int:
    """VmSize (now) or VmPeak (most so far) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1]) * 1024


def watch_memory_errors() -> list[BaseException]:
    """Hang a list on the reader that takes what its libraries raise for want of memory: it tells of them politely."""
    seen: list[BaseException] = []
    original = images._damage

    def damage(error: Exception) -> ImageError:
        if isinstance(error, MemoryError) or "nsufficient memory" in str(error):
            seen.append(error)
        return original(error)

    images._damage = damage
    return seen


def make_case(corpus: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Name of the file that was damaged, and the damaged file."""
    names = list(corpus)
    name = names[number % len(names)]
    rng = random.Random(f"{seed}/{number}")
    return name, mutate(rng, corpus[name], list(corpus.values()))


def read(file: bytes) -> str:
    """What came out: "picture", or the code of the error."""
    try:
        picture = images.read(file, LIMITS)
    except ImageError as error:
        return error.code
    height, width = picture.size
    assert picture.pixels.shape == (height, width, 3), picture.pixels.shape
    assert picture.pixels.dtype == np.uint8, picture.pixels.dtype
    assert picture.pixels.flags.c_contiguous
    assert 0 < height * width <= LIMITS.max_pixels, picture.size
    assert picture.pages >= 1, picture.pages
    return "picture"


def run(seed: int, numbers: range) -> dict[str, object]:
    """Read many cases; counts of what came out.

    Raises:
        FuzzFailureError: names the case.
    """
    corpus = make_corpus()
    for name, file in corpus.items():  # so that every library has what it keeps
        outcome = read(file)
        if (outcome == "picture") == (name in ("GIF", "AVIF")):
            raise FuzzFailureError(f"{name}, whole: {outcome}")
    no_memory = watch_memory_errors()
    before = address_space("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (before + HARD_BYTES,) * 2)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for number in numbers:
        name, file = make_case(corpus, seed, number)
        where = f"case {number} of seed {seed}, a damaged {name}"
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        try:
            outcome = read(file)
        except BaseException as error:
            raise FuzzFailureError(where) from error
        if no_memory:
            raise FuzzFailureError(where) from no_memory[0]
        if (grown := address_space("VmPeak") - before) > ALLOWED_BYTES:
            raise FuzzFailureError(f"{where}: {grown >> 20} MB of memory ({outcome})")
        counts[name][outcome] += 1
    faulthandler.cancel_dump_traceback_later()
    return {"counts": counts, "grown": address_space("VmPeak") - before}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.reader", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one case")
    parser.add_argument("--write", type=Path, help="where to keep the file of that case")
    arguments = parser.parse_args()
    faulthandler.enable()
    if arguments.only is not None and arguments.write is not None:
        arguments.write.write_bytes(make_case(make_corpus(), arguments.seed, arguments.only)[1])
    only = arguments.only
    numbers = range(arguments.count) if only is None else range(only, only + 1)
    json.dump(run(arguments.seed, numbers), sys.stdout)


if __name__ == "__main__":
    main()
