"""Train a variant on drawn scenes: `python -m training.train --config training/configs/tiny.json`.

Runs on the CPU (in bf16 where it has that) or on CUDA unchanged; `torchrun --nproc-per-node 2 -m training.train ...`
shares a step among processes, which on a busy CPU beats two threads. SIGTERM and Ctrl-C end a run after the step in
hand, with a checkpoint; the same command goes on from there.
"""

import argparse
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import cv2
import torch
import torch.distributed as dist
from tqdm import tqdm

from sam_server.allocator import keep_freed_memory
from sam_server.checkpoints.load import load_state_dict
from training.config import TrainConfig
from training.curves import draw_curves
from training.scene_store import SceneStore, draw_store
from training.trainer import Rank, Scenes, Trainer, join_processes, make_batch

CHECKPOINT = "last.ckpt"
LOG = "log.jsonl"
# Steps between lines of the log.
LOG_EVERY = 20


def run(
    trainer: Trainer,
    scenes: Scenes,
    folder: Path,
    minutes: float | None = None,
    save_every: float = 60.0,
    quiet: bool = False,
    grows: SceneStore | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Train from the trainer's step to the end, with log and checkpoints.

    Args:
        trainer: fresh, or loaded from a checkpoint.
        scenes: to cut samples from.
        folder: gets the checkpoint, the log and the curves.
        minutes: fit the schedule into this time, earlier runs included, in place of the config's steps.
        save_every: seconds between checkpoints.
        quiet: no progress bar.
        grows: a store, the same as `scenes`, that another process still draws into.
        stop: set to end the run after the step in hand; its checkpoint is written.
    """
    config, rank = trainer.config, trainer.rank
    folder.mkdir(parents=True, exist_ok=True)
    started = saved = refreshed = time.monotonic()
    before = trainer.seconds

    def progress() -> float:
        if minutes is None:
            return trainer.step / config.steps
        return _agree(max(trainer.seconds / (minutes * 60), trainer.step / config.steps), rank)

    bar = tqdm(total=1.0, disable=quiet or rank.number > 0, bar_format="{l_bar}{bar}| {elapsed} {postfix}")
    with ThreadPoolExecutor(1) as drawer:
        now = progress()
        stage = config.stage_at(now)
        ahead = drawer.submit(make_batch, scenes, stage, config.seed, trainer.step, rank)
        while now < 1 and not _any(stop is not None and stop.is_set(), rank):
            samples = ahead.result()
            ahead = drawer.submit(make_batch, scenes, stage, config.seed, trainer.step + 1, rank)
            report = trainer.train_step(samples, now)
            trainer.seconds = before + time.monotonic() - started
            if rank.number == 0 and trainer.step % LOG_EVERY == 0:
                line = {"step": trainer.step, "seconds": round(trainer.seconds, 1), "size": samples[0].image.shape[0]}
                with (folder / LOG).open("a") as log:
                    log.write(json.dumps(line | {key: round(value, 5) for key, value in asdict(report).items()}) + "\n")
                bar.n = round(now, 4)
                bar.set_postfix_str(f"step {trainer.step} loss {report.loss:.3f} chosen {report.chosen_first:.3f}")
            if rank.number == 0 and time.monotonic() - saved > save_every:
                trainer.save(folder / CHECKPOINT)
                saved = time.monotonic()
            if grows and time.monotonic() - refreshed > save_every:
                grows.refresh()
                refreshed = time.monotonic()
            now = progress()
            if config.stage_at(now) != stage:  # what was drawn ahead has the size of the stage before
                stage = config.stage_at(now)
                ahead = drawer.submit(make_batch, scenes, stage, config.seed, trainer.step, rank)
    bar.close()
    if rank.number == 0:
        trainer.save(folder / CHECKPOINT)
        if (folder / LOG).exists():
            draw_curves(folder / LOG, folder / "curves.png")


def _agree(progress: float, rank: Rank) -> float:
    """The first process's clock decides for all."""
    if rank.count == 1:
        return progress
    value = _for_exchange(progress)
    dist.broadcast(value, 0)
    return float(value)


def _any(stopped: bool, rank: Rank) -> bool:
    """Whether one of the processes was told to stop: they all stop after the same step."""
    if rank.count == 1:
        return stopped
    value = _for_exchange(float(stopped))
    dist.all_reduce(value)
    return bool(value > 0)


def _for_exchange(number: float) -> torch.Tensor:
    value = torch.tensor([number], dtype=torch.float64)
    return value.cuda() if torch.cuda.is_available() else value


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("training/configs/tiny.json"))
    parser.add_argument("--out", type=Path, default=Path("build/train"), help="checkpoint, log and curves go here")
    parser.add_argument("--scenes", type=Path, default=Path("build/scenes"), help="store of scenes; filled if need be")
    parser.add_argument("--weights", type=Path, help="checkpoint to start from, instead of random weights")
    parser.add_argument(
        "--meanwhile", action="store_true", help="begin with the scenes that are there while others are drawn"
    )
    parser.add_argument("--minutes", type=float, help="fit the schedule into this time instead of the config's steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="threads of each process")
    arguments = parser.parse_args()
    keep_freed_memory()
    rank = join_processes()
    cv2.setNumThreads(1)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = TrainConfig.read(arguments.config)
    if rank.number == 0 and not arguments.meanwhile:
        draw_store(arguments.scenes, config.scenes)
    if rank.count > 1:
        dist.barrier()
    trainer = Trainer(config, rank, arguments.device)
    if (arguments.out / CHECKPOINT).exists():
        trainer.load(arguments.out / CHECKPOINT)
    elif arguments.weights:
        trainer.start_from(load_state_dict(arguments.weights))
    store = SceneStore(arguments.scenes, None if arguments.meanwhile else config.scenes)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(trainer, store, arguments.out, arguments.minutes, grows=store if arguments.meanwhile else None, stop=stop)
    if rank.count > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
