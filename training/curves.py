"""Curves of a training run as a picture."""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

# Lines of the log that are averaged for one point of a curve.
WINDOW = 25
LABELS = {
    "best_first": "one prompt, best of three",
    "chosen_first": "one prompt, chosen by predicted IoU",
    "chosen_last": "last round, chosen",
    "single_last": "last round, single mask",
}


def draw_curves(log: Path, out: Path) -> None:
    """Draw loss and IoU over time from a JSON-lines log to a PNG."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    minutes = np.array([row["seconds"] for row in rows]) / 60
    window = max(1, min(WINDOW, len(rows) // 4))

    def smooth(key: str) -> np.ndarray:
        values = np.array([row[key] for row in rows])
        return np.convolve(values, np.ones(window) / window, mode="valid")

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = minutes[window - 1 :]
    left.plot(x, smooth("loss"))
    left.set(title="loss", xlabel="minutes")
    for key, label in LABELS.items():
        right.plot(x, smooth(key), label=label)
    sizes = np.array([row["size"] for row in rows])
    for change in np.flatnonzero(np.diff(sizes)) + 1:
        right.axvline(minutes[change], color="grey", linewidth=0.7)
        right.text(minutes[change], 0.02, f" {sizes[change]} px", transform=right.get_xaxis_transform(), fontsize=8)
    right.set(title="IoU while training", xlabel="minutes", ylim=(0, 1))
    right.legend(loc="upper left", fontsize=8)
    figure.savefig(out, dpi=100)
