"""Scenes drawn ahead, kept on disk in shards, so that training does not wait for drawing.

`python -m training.scene_store --out build/scenes --scenes 8000` draws what is missing.
"""

import argparse
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from training.scene_canvas import Scene
from training.scenes import HELD_OUT_SEED, SCENE_SIZE, draw_any

# Scenes of one shard, the unit of writing: 250 scenes of 512 pixels take 330 MB.
SHARD_SCENES = 250


@dataclass(frozen=True)
class Shard:
    """One folder of scenes, mapped into memory."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint16]
    parents: tuple[npt.NDArray[np.int32], ...]
    kinds: tuple[str, ...]

    def scene(self, index: int) -> Scene:
        """The scene at `index` of this shard; its arrays are read-only views of the file."""
        return Scene(self.images[index], self.labels[index], self.parents[index], self.kinds[index])


class SceneStore:
    """All finished shards of a folder, in order of their names."""

    def __init__(self, folder: Path, scenes: int | None = None) -> None:
        """Open a folder.

        Args:
            folder: where `draw_store` wrote.
            scenes: use the first so many, which must be there; all that are there if None.

        Raises:
            ValueError: fewer scenes are there than asked for, or none.
        """
        self.folder = folder
        self.shards: list[Shard] = []
        self.count = 0
        self.refresh()
        there = self.count
        if there == 0 or there < (scenes or 0):
            wanted = f"{scenes} scenes" if scenes else "scenes"
            raise ValueError(f"{folder} holds {there} scenes: draw {wanted} with python -m training.scene_store")
        self.count = scenes or there

    def refresh(self) -> None:
        """Take in the shards that another process has finished since."""
        self.shards += [_open(path) for path in sorted(self.folder.glob("shard_?????"))[len(self.shards) :]]
        self.count = sum(len(shard.kinds) for shard in self.shards)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        for shard in self.shards:
            if index < len(shard.kinds):
                return shard.scene(index)
            index -= len(shard.kinds)
        raise IndexError("scene index out of range")


def _open(path: Path) -> Shard:
    offsets = np.load(path / "offsets.npy")
    parents = np.load(path / "parents.npy")
    rows = tuple(parents[a:b] for a, b in pairwise(offsets))
    kinds = tuple(json.loads((path / "kinds.json").read_text()))
    return Shard(np.load(path / "images.npy", mmap_mode="r"), np.load(path / "labels.npy", mmap_mode="r"), rows, kinds)


def draw_shard(folder: Path, number: int, count: int = SHARD_SCENES, size: int = SCENE_SIZE) -> Path:
    """Draw one shard, unless it is there: scenes number * SHARD_SCENES and on. Appears under its name when complete."""
    cv2.setNumThreads(1)
    path = folder / f"shard_{number:05d}"
    if path.exists():
        return path
    first = number * SHARD_SCENES
    if first + count > HELD_OUT_SEED:
        raise ValueError("these seeds are held out for evaluation")
    part = folder / f"{path.name}.part{os.getpid()}"
    part.mkdir(parents=True)
    scenes = [draw_any(first + index, size) for index in range(count)]
    np.save(part / "images.npy", np.stack([scene.image for scene in scenes]))
    np.save(part / "labels.npy", np.stack([scene.labels for scene in scenes]))
    np.save(part / "parents.npy", np.concatenate([scene.parents for scene in scenes]))
    np.save(part / "offsets.npy", np.cumsum([0, *(len(scene.parents) for scene in scenes)]))
    (part / "kinds.json").write_text(json.dumps([scene.kind for scene in scenes]))
    try:
        part.rename(path)
    except OSError:  # another process was first
        shutil.rmtree(part)
    return path


def draw_store(folder: Path, scenes: int, workers: int = 1, size: int = SCENE_SIZE, first: int = 0) -> None:
    """Draw shards until the folder holds `scenes` scenes from shard `first` on; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [n for n in range(-(-scenes // SHARD_SCENES)) if not (folder / f"shard_{first + n:05d}").exists()]
    if not numbers:
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as processes:
        jobs = [
            processes.submit(draw_shard, folder, first + n, min(SHARD_SCENES, scenes - n * SHARD_SCENES), size)
            for n in numbers
        ]
        for job in tqdm(jobs, unit="shard", desc="drawing"):
            job.result()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/scenes"))
    parser.add_argument("--scenes", type=int, default=8000, help="how many scenes the folder shall hold; 1.3 MB each")
    parser.add_argument("--first", type=int, default=0, help="shard to begin with: others hold other scenes")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    draw_store(arguments.out, arguments.scenes, arguments.workers, first=arguments.first)


if __name__ == "__main__":
    main()
