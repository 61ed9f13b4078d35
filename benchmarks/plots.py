"""Results as plots, each an SVG that a page can hold."""

import io
from collections.abc import Callable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import Results, Share
from benchmarks.settings import PARTS, REFERENCE

# Okabe and Ito 2008: colours that colour-blind people can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
WIDTH = 9.0  # inches
ROW = 0.34  # inches a bar
GIGA = 1e9


def make_plots(results: Results) -> list[tuple[str, str]]:
    """(title, SVG) of everything that was measured."""
    matplotlib.rcParams.update({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    plots: list[tuple[str, str]] = []
    for variant in dict.fromkeys(m.side.variant for m in results.measurements):
        plots.append((f"Speed against the reference, {variant}", _ratios(results, variant)))
        plots.append((f"Time against the floor of the matrix products, {variant}", _floors(results, variant)))
        plots.append((f"Peak memory, {variant}", _memory(results, variant)))
        plots.append((f"Pictures in one call, {variant}", _batches(results, variant)))
    plots.append(("Layers of the image encoder by pictures in one call, PyTorch", _layers_by_batch(results.layers)))
    plots.append(("Layers of the image encoder by block, one picture, PyTorch", _layers_by_block(results.layers)))
    plots.append(("Components of one picture with one click, PyTorch", _components(results.components)))
    return [(title, svg) for title, svg in plots if svg]


def _bars(rows: Sequence[tuple[str, float, str]], label: str, draw: Callable[[Axes], None] | None = None) -> str:
    """Horizontal bars: (name, length, text at its end)."""
    if not rows:
        return ""
    figure = Figure(figsize=(WIDTH, 1.0 + ROW * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [name.split(":")[0] for name, _, _ in rows]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}
    bars = axes.barh(range(len(rows)), [length for _, length, _ in rows], color=[colours[name] for name in names])
    axes.bar_label(bars, [text for _, _, text in rows], padding=3)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(label)
    if draw is not None:
        draw(axes)
    return _svg(figure)


def _ratios(results: Results, variant: str) -> str:
    rows = []
    for part in PARTS:
        for m in results.measurements:
            ratio = results.ratio(m)
            if m.part == part and m.side.variant == variant and m.side.backend != REFERENCE and ratio and m.batch == 1:
                rows.append((f"{part}: {m.side.label}", ratio, f"{ratio:.1f} ×"))
    return _bars(rows, "times faster than segment-anything 1.0", lambda axes: axes.axvline(1, color="black", lw=0.8))


def _floors(results: Results, variant: str) -> str:
    rows, floors = [], []
    for part in ("encode", "points64"):
        for m in results.measurements:
            floor = results.floor(m)
            if m.part == part and m.side.variant == variant and m.median and floor:
                rows.append((f"{part}: {m.side.label}", m.median, f"{m.median:.2f} s"))
                floors.append(floor)

    def draw(axes: Axes) -> None:
        axes.scatter(floors, range(len(floors)), marker="|", s=220, color="black", label="floor", zorder=3)
        axes.legend(loc="lower right")

    return _bars(rows, "seconds; the mark is the work of the plain graph at the measured peak", draw)


def _memory(results: Results, variant: str) -> str:
    rows = [
        (f"{m.part}: {m.side.label}", m.peak / GIGA, f"{m.peak / GIGA:.2f}")
        for part in ("memory", "encode", "points64", "automatic")
        for m in results.measurements
        if m.part == part and m.side.variant == variant and m.peak
    ]
    return _bars(rows, "GB")


def _batches(results: Results, variant: str) -> str:
    found = [m for m in results.measurements if m.part == "batches" and m.side.variant == variant and m.median]
    if not found:
        return ""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for colour, side in zip(COLOURS, dict.fromkeys(m.side for m in found), strict=False):
        line = sorted((m.batch, m.median) for m in found if m.side == side and m.median)
        axes.plot(*zip(*line, strict=True), marker="o", color=colour, label=side.label)
    axes.set_xticks(sorted({m.batch for m in found}))
    axes.set_xlabel("pictures in one call")
    axes.set_ylabel("seconds a picture")
    axes.set_ylim(bottom=0)
    axes.legend()
    return _svg(figure)


def _layers_by_batch(layers: Sequence[Share]) -> str:
    sums: dict[str, dict[str, float]] = {}
    for share in layers:
        column = sums.setdefault(share.name, {})
        column[share.group] = column.get(share.group, 0.0) + share.seconds
    return _stack(
        sums, list(dict.fromkeys(share.group for share in layers)), "pictures in one call", "seconds a picture"
    )


def _layers_by_block(layers: Sequence[Share]) -> str:
    sums: dict[str, dict[str, float]] = {}
    first = layers[0].group if layers else ""
    blocks = sorted({share.index for share in layers if share.index is not None})
    for share in layers:
        if share.group == first and share.index is not None:
            sums.setdefault(share.name, {})[str(share.index)] = share.seconds
    return _stack(sums, [str(block) for block in blocks], "block", "seconds")


def _stack(sums: dict[str, dict[str, float]], columns: Sequence[str], across: str, up: str) -> str:
    """Stacked columns: seconds by name and column."""
    if not sums:
        return ""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    bottoms = [0.0] * len(columns)
    for i, (name, seconds) in enumerate(sorted(sums.items(), key=lambda item: -sum(item[1].values()))):
        heights = [seconds.get(column, 0.0) for column in columns]
        axes.bar(columns, heights, 0.65, bottoms, color=COLOURS[i % len(COLOURS)], label=name)
        bottoms = [a + b for a, b in zip(bottoms, heights, strict=True)]
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    figure.legend(loc="outside right upper")
    return _svg(figure)


def _components(components: Sequence[Share]) -> str:
    groups = list(dict.fromkeys(share.group for share in components))
    if not groups:
        return ""
    figure = Figure(figsize=(WIDTH, 1.4 + 0.5 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    lefts = dict.fromkeys(groups, 0.0)
    for i, name in enumerate(dict.fromkeys(share.name for share in components)):
        for share in components:
            if share.name == name:
                total = sum(other.seconds for other in components if other.group == share.group)
                width = 100 * share.seconds / total
                label = name if share.group == groups[0] else None
                axes.barh(share.group, width, 0.6, lefts[share.group], color=COLOURS[i % len(COLOURS)], label=label)
                lefts[share.group] += width
    axes.set_xlabel("% of the time")
    figure.legend(loc="outside lower center", ncols=4)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    return text[text.index("<svg") :]  # without the XML declaration, as a part of an HTML page
