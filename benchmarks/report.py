"""Results as tables, for the terminal, the page and the documentation."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results import Measurement, Results
from benchmarks.settings import PARTS

GIGA = 1e9
NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: what it shows.
        head: names of the columns.
        rows: one text a column.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """Title and table, columns aligned so that it reads in a terminal too."""
        widths = [max(len(row[i]) for row in (self.head, *self.rows)) for i in range(len(self.head))]

        def line(cells: Sequence[str]) -> str:
            first, *rest = (
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
            )
            return "| " + " | ".join([first, *rest]) + " |"

        rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
        return "\n".join([f"### {self.title}", "", line(self.head), rule, *(line(row) for row in self.rows)])


def make_tables(results: Results) -> list[Table]:
    """A table for each part and variant that was measured."""
    tables = []
    for part in PARTS:
        variants = dict.fromkeys(m.side.variant for m in results.measurements if m.part == part)
        for variant in variants:
            found = [m for m in results.measurements if m.part == part and m.side.variant == variant]
            tables.append(_table(results, part, variant, found))
    return tables


def _table(results: Results, part: str, variant: str, found: list[Measurement]) -> Table:
    columns = COLUMNS[part]
    rows = [
        (m.side.label, *(_failed(m, i) or column(results, m) for i, (_, column) in enumerate(columns))) for m in found
    ]
    # A column in which nobody has anything to say is left out.
    said = [i for i in range(len(columns)) if any(row[i + 1] != NONE for row in rows)]
    first = results.measurements[0].side.variant
    head = ("side", *(columns[i][0].format(first=first) for i in said))
    return Table(
        f"{part}, {variant}: {PARTS[part]}", head, tuple((row[0], *(row[i + 1] for i in said)) for row in rows)
    )


def _failed(measurement: Measurement, column: int) -> str | None:
    if measurement.failure is None:
        return None
    return "failed" if column == 0 else NONE


def seconds_text(seconds: float | None) -> str:
    """Seconds or milliseconds with three digits."""
    if seconds is None:
        return NONE
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _median(_: Results, m: Measurement) -> str:
    return seconds_text(m.median)


def _spread(_: Results, m: Measurement) -> str:
    if len(m.seconds) < 2:
        return "1 run" if m.seconds else NONE
    low, high = min(m.seconds), max(m.seconds)
    unit, scale = ("s", 1) if high >= 1 else ("ms", 1000)
    return f"{low * scale:.3g} to {high * scale:.3g} {unit}, {len(m.seconds)} runs"


def _ratio(results: Results, m: Measurement) -> str:
    return _times(results.ratio(m))


def _ratio_to_first(results: Results, m: Measurement) -> str:
    first = results.measurements[0].side.variant
    return NONE if m.side.variant == first else _times(results.ratio(m, first))


def _times(ratio: float | None) -> str:
    return NONE if ratio is None else f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def _floor(results: Results, m: Measurement) -> str:
    return seconds_text(results.floor(m))


def _of_peak(results: Results, m: Measurement) -> str:
    floor = results.floor(m)
    return NONE if floor is None or m.median is None else f"{100 * floor / m.median:.0f} %"


def _error(_: Results, m: Measurement) -> str:
    return NONE if m.error is None else f"{m.error:.1e}"


def _mask_iou(_: Results, m: Measurement) -> str:
    return NONE if m.mask_iou is None else f"{m.mask_iou[0]:.4f}, {m.mask_iou[1]:.4f}"


def _masks(_: Results, m: Measurement) -> str:
    return NONE if m.masks is None else str(m.masks)


def _matched(_: Results, m: Measurement) -> str:
    return NONE if m.matched is None else f"{100 * m.matched:.1f} %"


def _peak(_: Results, m: Measurement) -> str:
    if m.device_peak is not None:
        return f"{m.device_peak / GIGA:.2f} GB on the GPU"
    return NONE if m.peak is None else f"{m.peak / GIGA:.2f} GB"


def _memory_ratio(results: Results, m: Measurement) -> str:
    ratio = results.memory_ratio(m)
    return NONE if ratio is None or m.device_peak is not None else f"{100 * ratio:.0f} %"


def _outside(_: Results, m: Measurement) -> str:
    return seconds_text(statistics.median(m.outside)) if m.outside else NONE


def _batch(_: Results, m: Measurement) -> str:
    return str(m.batch)


def _gain(results: Results, m: Measurement) -> str:
    alone = next((o for o in results.measurements if o.part == m.part and o.side == m.side and o.batch == 1), None)
    if alone is None or alone.median is None or m.median is None:
        return NONE
    return f"{alone.median / m.median:.2f}"


TIME = (("median", _median), ("spread", _spread), ("× reference", _ratio), ("× reference's {first}", _ratio_to_first))
FLOOR = (("floor", _floor), ("of GEMM peak", _of_peak))
MEMORY = (("peak memory", _peak), ("of the reference's", _memory_ratio))
COLUMNS = {
    "encode": (*TIME, *FLOOR, ("embedding error", _error), *MEMORY),
    "click": (*TIME, ("mask IoU (mean, least)", _mask_iou), *MEMORY),
    "points64": (*TIME, *FLOOR, ("mask IoU (mean, least)", _mask_iou), *MEMORY),
    "automatic": (
        *TIME,
        ("masks", _masks),
        ("matched at 0.99", _matched),
        ("best IoU (mean, least)", _mask_iou),
        *MEMORY,
    ),
    "http": (("click", _median), ("spread", _spread), ("outside the decoder", _outside)),
    "startup": (("median", _median), ("spread", _spread)),
    "memory": MEMORY,
    "regroup": (("median", _median), ("spread", _spread)),
    "batches": (
        ("pictures", _batch),
        ("a picture", _median),
        ("spread", _spread),
        ("gain", _gain),
        *FLOOR,
        *MEMORY[:1],
    ),
    "components": (),
}


def components_table(results: Results) -> Table | None:
    """Seconds and share of each component, a column pair a precision."""
    groups = list(dict.fromkeys(share.group for share in results.components))
    if not groups:
        return None
    names = list(dict.fromkeys(share.name for share in results.components))
    by = {(share.group, share.name): share.seconds for share in results.components}
    totals = {group: sum(by[group, name] for name in names) for group in groups}
    rows = tuple(
        (
            name,
            *(text for g in groups for text in (seconds_text(by[g, name]), f"{100 * by[g, name] / totals[g]:.1f} %")),
        )
        for name in names
    )
    return Table(
        "components: one picture and one click, PyTorch",
        ("component", *(t for g in groups for t in (g, "share"))),
        rows,
    )


def summary(results: Results) -> str:
    """The lines above the tables: where and how it ran."""
    machine = results.machine
    peaks = ", ".join(f"{name} {flops / GIGA:.0f} GFLOP/s" for name, flops in machine.peak_flops.items())
    device = "" if machine.device == "cpu" else f"\n- GPU: {machine.device}"
    weights = "; ".join(f"{variant}: {text}" for variant, text in results.weights.items())
    work = "; ".join(
        f"{variant} {counts['encode'] / GIGA:.0f} GFLOP a picture, {counts['prompt'] / GIGA:.2f} a prompt"
        for variant, counts in machine.flops.items()
    )
    return f"""- command: `{results.command}` ({results.started}, took {results.took / 60:.1f} minutes)
- processor: {machine.processor}; {machine.processors} for this process, {results.threads} threads{device}
- memory: {machine.memory / GIGA:.0f} GB
- measured peak of matrix products: {peaks}
- work of the plain graph: {work}
- software: {machine.software}
- picture: {results.picture}
- weights: {weights}"""


def to_markdown(results: Results) -> str:
    """The whole report."""
    tables = make_tables(results)
    components = components_table(results)
    if components is not None:
        tables.append(components)
    blocks = [summary(results), *(table.to_markdown() for table in tables)]
    failures = [f"- {m.part}, {m.side.variant}, {m.side.label}: {m.failure}" for m in results.measurements if m.failure]
    if failures:
        blocks.append("\n".join(["### What failed", "", *failures]))
    return "\n\n".join(blocks) + "\n"
