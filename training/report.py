"""What was measured, as a table, as JSON and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.protocol import CLICKS, Measured

COLUMNS = {
    "click": "1 click",
    "best": "best of 3",
    "single": "single",
    "clicks": f"{CLICKS} clicks",
    "box": "box",
}
# Bins of predicted IoU in the table of calibration.
BINS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.01)


@dataclass(frozen=True)
class Row:
    """Mean IoU of one kind, or of all."""

    kind: str
    objects: int
    values: dict[str, float]


def rows(measured: Sequence[Measured]) -> list[Row]:
    """One row a kind in order of appearance, and the last for all objects."""
    kinds = list(dict.fromkeys(item.kind for item in measured))
    groups = [(kind, [item for item in measured if item.kind == kind]) for kind in kinds]
    return [_row(kind, items) for kind, items in [*groups, ("all", list(measured))]]


def _row(kind: str, items: Sequence[Measured]) -> Row:
    return Row(kind, len(items), {key: float(np.mean([getattr(item, key) for item in items])) for key in COLUMNS})


def correlation(measured: Sequence[Measured]) -> float:
    """Pearson correlation of predicted and real IoU over all three masks of every click."""
    predicted = np.concatenate([item.predicted for item in measured])
    real = np.concatenate([item.real for item in measured])
    return float(np.corrcoef(predicted, real)[0, 1])


def calibration(measured: Sequence[Measured]) -> list[tuple[float, float, float, int]]:
    """For each bin of predicted IoU that is not empty: lower edge, mean predicted, mean real, masks."""
    predicted = np.clip(np.concatenate([item.predicted for item in measured]), 0, 1)
    real = np.concatenate([item.real for item in measured])
    out = []
    for low, high in pairwise(BINS):
        inside = (predicted >= low) & (predicted < high)
        if inside.any():
            out.append((low, float(predicted[inside].mean()), float(real[inside].mean()), int(inside.sum())))
    return out


def table(lines: Sequence[Row]) -> str:
    """A Markdown table of mean IoU."""
    head = ["kind", "objects", *COLUMNS.values()]
    text = [" | ".join(head), " | ".join("---" for _ in head)]
    for line in lines:
        cells = [line.kind, str(line.objects), *(f"{line.values[key]:.3f}" for key in COLUMNS)]
        text.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in text)


def draw_report(measured: Sequence[Measured], out: Path) -> None:
    """Bars of mean IoU by kind, and the calibration of predicted IoU, as a PNG."""
    lines = rows(measured)
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    places = np.arange(len(lines))
    for index, (key, label) in enumerate(COLUMNS.items()):
        left.bar(places + (index - 2) * 0.16, [line.values[key] for line in lines], 0.16, label=label)
    left.set_xticks(places, [line.kind for line in lines], rotation=45, ha="right")
    left.set(ylim=(0, 1), title="mean IoU")
    left.grid(axis="y", alpha=0.4)
    left.legend(ncols=5, fontsize=8, loc="upper center")
    points = calibration(measured)
    right.plot([0, 1], [0, 1], color="grey", linewidth=0.7)
    right.plot([point[1] for point in points], [point[2] for point in points], marker="o")
    right.set(title=f"IoU head, r = {correlation(measured):.2f}", xlabel="predicted IoU", ylabel="real IoU")
    right.set(xlim=(0, 1), ylim=(0, 1))
    figure.savefig(out, dpi=100)
