"""Ratios, floors and tables from measurements."""

from dataclasses import replace

import pytest

from benchmarks.page import make_page
from benchmarks.report import make_tables, to_markdown
from benchmarks.results import Machine, Measurement, Results, Share
from benchmarks.settings import Side

REFERENCE = Side("reference", "vit_b")
PYTORCH = Side("pytorch", "vit_b", "bf16")
TINY = Side("pytorch", "tiny", "fp32")
MACHINE = Machine(
    processor="a <processor>",
    processors=2,
    memory=8 * 10**9,
    device="cpu",
    software="Python",
    peak_flops={"fp32": 100e9, "bf16": 400e9},
    flops={"vit_b": {"encode": 1000e9, "prompt": 4e9}, "tiny": {"encode": 10e9, "prompt": 1e9}},
)


@pytest.fixture
def results() -> Results:
    found = Results("script/benchmark", MACHINE, {"vit_b": "random"}, "2026-01-01", 2, "drawn")
    found.measurements = [
        Measurement("encode", REFERENCE, seconds=(16.0, 14.0, 15.0), peak=3 * 10**9),
        Measurement("encode", PYTORCH, seconds=(3.0, 2.5, 8.0), peak=10**9, error=0.004),
        Measurement("points64", PYTORCH, seconds=(1.0,)),
        Measurement("encode", TINY, seconds=(0.1,)),
        Measurement("http", PYTORCH, seconds=(0.05, 0.06, 0.07), outside=(0.01, 0.02, 0.03)),
        Measurement("click", replace(PYTORCH, backend="onnx"), failure="no file"),
    ]
    found.components = [Share("bf16", "image encoder", 3.0), Share("bf16", "decoder", 1.0)]
    found.layers = [Share("1", "attention", 1.0, 0), Share("1", "MLP", 2.0, 0), Share("1", "neck", 0.5)]
    return found


def test_ratios(results):
    _, own, points, tiny, *_ = results.measurements
    assert results.ratio(own) == 5
    assert results.memory_ratio(own) == pytest.approx(1 / 3)
    assert results.ratio(points) is None  # the reference was not measured there
    assert results.ratio(tiny) is None
    assert results.ratio(tiny, "vit_b") == 150


def test_floors(results):
    reference, own, points, *_ = results.measurements
    assert results.floor(reference) == 10
    assert results.floor(own) == 2.5
    assert results.floor(points) == 64 * 4 / 400
    assert results.floor(results.measurements[4]) is None


def test_tables(results):
    tables = {table.title.split(":")[0]: table for table in make_tables(results)}
    encode = tables["encode, vit_b"]
    own = dict(zip(encode.head, encode.rows[1], strict=True))
    assert own["median"] == "3 s"
    assert own["× reference"] == "5.00"
    assert own["of the reference's"] == "33 %"
    assert own["of GEMM peak"] == "83 %"
    assert own["embedding error"] == "4.0e-03"
    assert (
        dict(zip(tables["encode, tiny"].head, tables["encode, tiny"].rows[0], strict=True))["× reference's vit_b"]
        == "150"
    )
    assert (
        dict(zip(tables["http, vit_b"].head, tables["http, vit_b"].rows[0], strict=True))["outside the decoder"]
        == "20 ms"
    )
    assert "failed" in tables["click, vit_b"].rows[0]


def test_markdown_has_every_table(results):
    text = to_markdown(results)
    assert "`script/benchmark`" in text
    assert text.count("### ") == len(make_tables(results)) + 2  # components, and what failed
    assert "75.0 %" in text  # of the image encoder in the components
    assert "ONNX bf16: no file" in text


def test_page_stands_alone(results):
    page = make_page(results)
    assert page.count("<svg") == page.count("</svg>") >= 4
    assert "a &lt;processor&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
