"""The whole benchmark on a small model: structure and quality, never a time."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import parse_arguments, run
from benchmarks.conductor import measure
from benchmarks.results import Results
from benchmarks.settings import PYTORCH, REFERENCE, SMALL, Settings, Side


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    return Settings(
        parts=("encode", "click", "automatic", "memory", "components"),
        variants=(SMALL.name,),
        backends=(REFERENCE, PYTORCH),
        precisions=("fp32",),
        runs=1,
        batches=(1, 2),
        points_per_side=2,
        picture_size=(96, 64),
        output=tmp_path_factory.mktemp("benchmark"),
        model_dir=Path("nowhere"),
    )


@pytest.fixture(scope="module")
def results(settings) -> Results:
    before = dict(os.environ)
    try:
        return run(settings, "script/benchmark --test")
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_every_side_of_every_part_is_measured(results):
    found = {(m.part, m.side.backend, m.side.performance_mode) for m in results.measurements}
    expected = {
        (part, side, False) for part in ("encode", "click", "automatic", "memory") for side in (REFERENCE, PYTORCH)
    }
    assert found == {*expected, ("automatic", PYTORCH, True)}
    assert [m.failure for m in results.measurements] == [None] * len(results.measurements)


def test_speed_is_measured_at_equal_quality(results):
    own = {m.part: m for m in results.measurements if m.side == Side(PYTORCH, SMALL.name)}
    assert own["encode"].error is not None
    assert own["encode"].error <= 1e-5
    assert own["click"].mask_iou is not None
    assert own["click"].mask_iou[1] >= 0.999
    assert own["automatic"].masks is not None


def test_memory_is_that_of_a_process_with_the_model(results):
    for measurement in results.measurements:
        assert measurement.peak is not None
        assert 10**8 < measurement.peak < 10**10


def test_layers_and_components(results):
    assert {share.name for share in results.components} >= {"image encoder", "prompt encoder", "masks to full size"}
    blocks = {share.index for share in results.layers if share.name == "attention"}
    assert blocks == set(range(SMALL.depth))
    assert {share.group for share in results.layers} == {"1", "2"}
    assert all(share.seconds > 0 for share in results.layers)


def test_files(results, settings):
    stored = json.loads((settings.output / "results.json").read_text())
    assert len(stored["measurements"]) == len(results.measurements)
    assert "<svg" in (settings.output / "index.html").read_text()


@pytest.mark.usefixtures("results")  # which wrote the weights
def test_a_side_that_fails_says_why_and_the_others_go_on(settings):
    missing, there = Side(PYTORCH, "vit_b"), Side(PYTORCH, SMALL.name)
    failed, measured = measure(replace(settings, runs=1), "encode", [missing, there], tell=lambda _: None)
    assert "no such file" in failed.failure
    assert "raise" not in failed.failure  # the message, and not the code that raised it
    assert measured.failure is None
    assert measured.seconds


def test_settings_survive_the_way_to_the_processes(settings):
    assert Settings.from_json(settings.to_json()) == settings


def test_command_line():
    chosen = parse_arguments(["--parts", "encode,click", "--precisions", "bf16", "--runs", "5"])
    assert chosen.parts == ("encode", "click")
    assert chosen.precisions == ("bf16",)
    assert chosen.runs == 5
    assert parse_arguments(["--quick", "--variants", "tiny"]).variants == ("tiny",)
    with pytest.raises(SystemExit):
        parse_arguments(["--parts", "nonsense"])


def test_what_was_measured_before_a_run_is_cut_off_is_kept(settings, tmp_path, monkeypatch):
    def cut_off(settings, part, *_, **__):
        if part == "click":
            raise KeyboardInterrupt
        return measure(settings, part, [Side(PYTORCH, SMALL.name)])

    monkeypatch.setattr("benchmarks.__main__.measure", cut_off)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    short = replace(settings, parts=("encode", "click"), backends=(PYTORCH,), output=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(short, "script/benchmark --test")
    kept = json.loads((tmp_path / "results.json").read_text())["measurements"]
    assert [measurement["part"] for measurement in kept] == ["encode"]
    assert (tmp_path / "index.html").is_file()
