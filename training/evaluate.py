"""Measure a model: `python -m training.evaluate`, or with `--checkpoint` any other that the server loads.

Held-out scenes by kind, the coins of scikit-image, and on request automatic masks and photographs with human segments.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sam_server.backend import SamBackend
from sam_server.grouping.presets import Preset, preset
from sam_server.predictor import Predictor
from training import report
from training.coins import coin_masks, coins_image
from training.model_arguments import add_model_arguments, load_model
from training.protocol import LabelledPicture, Measured, held_out, measure, photographs
from training.protocol_automatic import AUTOMATIC_IOU, count_found, match_automatic, mean_of_pictures
from training.scenes import KINDS

# The kinds that this project is for.
MAIN_KINDS = ("droplets", "bubbles", "cells", "grains", "coins")
# A coin counts as found from this IoU on.
COIN_IOU = 0.9
AUTOMATIC_SCENES = 20
# Smallest diameters of the droplets that are counted, in pixels.
AUTOMATIC_SIZES = (0, 16, 24)
# Beside the preset's search: the grid of a whole picture of 512 pixels has a point every 16, those of its four crops
# one every 11, and the model sees what lies there nearly twice as large.
CLOSER: dict[str, Any] = {"crop_n_layers": 1}


def measure_scenes(predictor: Predictor, kinds: list[str], count: int) -> list[Measured]:
    """Measure `count` held-out scenes of each kind."""
    pictures = tqdm(held_out(kinds, count), total=len(kinds) * count, unit="scene", desc="scenes")
    return [item for picture in pictures for item in measure(predictor, picture)]


def print_scenes(measured: list[Measured], scenes: int) -> None:
    """Print the table, choice and calibration of held-out scenes."""
    lines = report.rows(measured)
    print(f"\n{scenes} held-out scenes, mean IoU by kind\n\n{report.table(lines)}\n")
    main = [item.click for item in measured if item.kind in MAIN_KINDS]
    if main:
        print(f"1 click on {', '.join(MAIN_KINDS)}: {np.mean(main):.3f}")
    every = lines[-1].values
    print(f"chosen by predicted IoU {every['click']:.3f}, single-mask token {every['single']:.3f}")
    print(f"correlation of predicted and real IoU: {report.correlation(measured):.3f}")
    print("calibration (predicted -> real, masks): " + ", ".join(
        f"{predicted:.2f} -> {real:.2f} ({count})" for _, predicted, real, count in report.calibration(measured)
    ))  # fmt: skip


def print_coins(predictor: Predictor) -> list[Measured]:
    """Print how many of the 24 coins are found by click and by box."""
    masks = coin_masks()
    measured = measure(predictor, LabelledPicture("coins photograph", coins_image(), tuple(masks)))
    clicks, boxes = [item.click for item in measured], [item.box for item in measured]
    found, boxed = sum(value >= COIN_IOU for value in clicks), sum(value >= COIN_IOU for value in boxes)
    print(f"\nskimage.data.coins: {found} of {len(masks)} by one click (mean IoU {np.mean(clicks):.3f}), ", end="")
    print(f"{boxed} by box ({np.mean(boxes):.3f}), at IoU >= {COIN_IOU}")
    return measured


def print_automatic(backend: SamBackend) -> None:
    """Print recall and precision on droplet scenes and on the coins: as found, of the preset, and searched closer."""
    scenes = list(held_out(["droplets"], AUTOMATIC_SCENES, objects=None))
    coins = LabelledPicture("coins", coins_image(), tuple(coin_masks()))
    droplets = preset("droplets")
    ways: tuple[tuple[str, Preset | None, dict[str, Any]], ...] = (
        ("automatic masks", None, {}),
        ("preset droplets", droplets, {}),
        ("preset droplets with crops", droplets, CLOSER),
    )
    for way, chosen, search in ways:
        for name, pictures, smallest in (
            ("droplet scenes", scenes, AUTOMATIC_SIZES),
            ("skimage.data.coins", [coins], (0,)),
        ):
            bar = tqdm(pictures, desc=way, unit="picture")
            matchings = match_automatic(backend, bar, AUTOMATIC_IOU, chosen, search)
            for diameter in smallest:
                area = round(np.pi * diameter**2 / 4)
                found = count_found(matchings, area)
                size = f"from {diameter} px across" if diameter else "of all sizes"
                print(f"{way}, {name}, {size}: recall {found.recall:.3f} of {found.objects} objects, ", end="")
                print(f"precision {found.precision:.3f} of {found.masks} masks, ", end="")
                print(f"mean IoU {found.mean_iou:.3f}, at IoU >= {AUTOMATIC_IOU}", end="")
                recall, precision = mean_of_pictures(matchings, area)
                print(f"; mean of {len(pictures)} pictures: recall {recall:.3f}, precision {precision:.3f}")


def print_photographs(predictor: Predictor, folder: Path) -> list[Measured]:
    """Print figures on photographs with human segments."""
    pictures = list(photographs(folder))
    measured = [item for picture in tqdm(pictures, unit="picture") for item in measure(predictor, picture)]
    print(f"\n{len(pictures)} photographs, {len(measured)} human segments\n\n{report.table(report.rows(measured)[:1])}")
    return measured


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=list(KINDS))
    parser.add_argument("--scenes", type=int, default=8, help="held-out scenes of each kind")
    parser.add_argument("--automatic", action="store_true", help="measure automatic masks too; takes minutes")
    parser.add_argument("--bsds", type=Path, help="folder of BSDS500 pictures and .mat files, to measure on only")
    parser.add_argument("--out", type=Path, help="folder for figures as JSON and PNG")
    arguments = parser.parse_args()
    backend = load_model(arguments)
    predictor = Predictor(backend)
    measured = measure_scenes(predictor, arguments.kinds, arguments.scenes)
    print_scenes(measured, arguments.scenes * len(arguments.kinds))
    more = print_coins(predictor)
    if arguments.automatic:
        print_automatic(backend)
    if arguments.bsds:
        more += print_photographs(predictor, arguments.bsds)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        report.draw_report(measured, arguments.out / "evaluation.png")
        lines = [asdict(row) for row in [*report.rows(measured), *report.rows(more)[:-1]]]
        (arguments.out / "evaluation.json").write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
