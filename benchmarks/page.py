"""Results as one HTML page that needs nothing else."""

from html import escape

from benchmarks.plots import make_plots
from benchmarks.report import Table, components_table, make_tables, summary
from benchmarks.results import Results

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; margin: 0.5rem 0 2rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
div { overflow-x: auto; }
"""


def make_page(results: Results) -> str:
    """The page as HTML: how it was measured, plots, tables."""
    tables = make_tables(results)
    components = components_table(results)
    if components is not None:
        tables.append(components)
    facts = "".join(f"<li>{escape(line.removeprefix('- '))}</li>" for line in summary(results).splitlines())
    plots = "".join(f"<h3>{escape(title)}</h3><div>{svg}</div>" for title, svg in make_plots(results))
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Benchmark</title><style>{STYLE}</style></head>
<body>
<h1>Benchmark</h1>
<ul>{facts}</ul>
<h2>Plots</h2>
{plots}
<h2>Tables</h2>
{"".join(_html(table) for table in tables)}
</body>
</html>
"""


def _html(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<h3>{escape(table.title)}</h3><div><table><tr>{head}</tr>{rows}</table></div>"
