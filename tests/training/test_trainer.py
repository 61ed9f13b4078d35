import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pytorch_sam_wrapper import PyTorchSam, load_pytorch_sam
from sam_server.network.sam import Sam, WeightsError, load_sam
from sam_server.predictor import Predictor
from sam_server.prompts import LABEL_FOREGROUND, make_prompt
from training.config import Stage, TrainConfig
from training.export import HASHES, WEIGHTS, export
from training.finetune import measure_all
from training.prompting import pick
from training.samples import Sample, make_sample
from training.scene_canvas import Scene
from training.scenes import draw
from training.train import CHECKPOINT, LOG, run
from training.trainer import Rank, Trainer, make_batch, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scenes():
    return [draw(kind, seed, 128) for kind, seed in (("coins", 1), ("polygons", 4), ("blobs", 2), ("droplets", 3))]


def train(config: TrainConfig, scenes, folder: Path) -> Trainer:
    trainer = Trainer(config)
    run(trainer, scenes, folder, quiet=True)
    return trainer


def predicted_ious(sam: Sam, sample: Sample) -> np.ndarray:
    """Highest predicted IoU of a click in the middle of each of the sample's masks."""
    predictor = Predictor(PyTorchSam(sam, torch.device("cpu"), "fp32"))
    rng = np.random.default_rng(0)
    scale = sample.image.shape[0] / sample.targets.shape[-1]
    middles = [np.array(pick(target > 127, rng, centre=True)) * scale for target in sample.targets]
    prompts = [make_prompt([middle], [LABEL_FOREGROUND]) for middle in middles]
    found = predictor.predict(predictor.encode(sample.image), prompts, multimask_output=True)
    return np.array([item.iou.max() for item in found])


def weights_equal(a: Trainer, b: Trainer) -> bool:
    own, other = a.sam.state_dict(), b.sam.state_dict()
    average = all(torch.equal(a.average[key], b.average[key]) for key in a.average)
    return average and all(torch.equal(own[key], other[key]) for key in own)


@pytest.fixture(scope="module")
def handful() -> list[Scene]:
    return [draw("coins", 1, 128), draw("grains", 4, 128)]


@pytest.fixture(scope="module")
def learned(small_variant, handful) -> tuple[Trainer, list[float]]:
    """Trained on a handful of scenes; the loss of every step."""
    torch.manual_seed(0)
    stages = (Stage(128, 1.0, batch=2, masks=6, rounds=1),)
    config = TrainConfig(small_variant, stages, steps=220, learning_rate=3e-3, ema=0.9, balanced_until=0.4)
    trainer = Trainer(config)
    return trainer, train_on(trainer, handful)


def train_on(trainer: Trainer, scenes: list[Scene]) -> list[float]:
    """Train on whole scenes, with other masks of them in every step; one is bare ground if the stage says so."""
    config = trainer.config
    (stage,) = config.stages
    losses = []
    for step in range(config.steps):
        rng = np.random.default_rng(step)
        samples = [make_sample(each, 128, 6, rng, augment=False, ground=stage.empty > 0) for each in scenes]
        losses.append(trainer.train_step(samples, step / config.steps).loss)
    return losses


def test_a_handful_of_scenes_is_learned_by_heart(small_variant, handful, learned):
    trainer, losses = learned
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    measured = measure_all(load_sam(small_variant, trainer.average), handful)
    assert np.mean([item.best for item in measured]) > 0.9


def test_bare_ground_is_told_from_objects(small_variant, handful, learned):
    """What a search of a whole picture lives on: clicks beside the things are predicted to give nothing."""
    before = learned[0]
    stages = (replace(before.config.stages[0], empty=1.0),)
    trainer = Trainer(replace(before.config, stages=stages, steps=240, part="mask_decoder.iou_prediction_head"))
    trainer.start_from(before.average)
    train_on(trainer, handful)
    shown = [predicted_on_and_off(load_sam(small_variant, one.average), handful) for one in (before, trainer)]
    (_, taken_for_objects), (on, off) = shown
    assert taken_for_objects.max() > 0.5
    assert on.mean() > 0.6
    assert off.max() < 0.3


def predicted_on_and_off(sam: Sam, scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """Highest predicted IoU of clicks on objects, and on bare ground."""
    samples = [make_sample(scene, 128, 6, np.random.default_rng(0), augment=False, ground=True) for scene in scenes]
    predicted = np.concatenate([predicted_ious(sam, sample) for sample in samples])
    empty = np.concatenate([sample.empty for sample in samples])
    return predicted[~empty], predicted[empty]


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_computes_in_what_the_processor_is_good_at(small_config, scenes, monkeypatch, has_bf16, dtype):
    """Where it has no bf16, bf16 is imitated, and a step takes five times as long."""
    monkeypatch.setattr("training.trainer.cpu_has_bf16", lambda: has_bf16)
    trainer, seen = Trainer(small_config), set()
    for layer in trainer.sam.image_encoder.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda _layer, _inputs, out: seen.add(out.dtype))
    report = trainer.train_step(make_batch(scenes, small_config.stages[0], 0, 0, Rank()), 0.0)
    assert seen == {dtype}
    assert np.isfinite(report.loss)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.sam.parameters())


def test_same_seed_same_weights_and_other_seed_others(small_config, scenes, tmp_path):
    first, second = (train(small_config, scenes, tmp_path / name) for name in "ab")
    other = train(replace(small_config, seed=4), scenes, tmp_path / "c")
    assert weights_equal(first, second)
    assert not weights_equal(first, other)


@pytest.mark.parametrize(("stop", "optimizer", "dense"), [(2, "adamw", 0.0), (3, "muon", 1.0), (5, "adamw", 1.0)])
def test_a_resumed_run_equals_an_uninterrupted_one(small_config, scenes, tmp_path, stop, optimizer, dense):
    small_config = replace(small_config, optimizer=optimizer, dense=dense)
    whole = train(small_config, scenes, tmp_path / "whole")
    broken = Trainer(small_config)
    for step in range(stop):
        stage = small_config.stage_at(step / small_config.steps)
        broken.train_step(make_batch(scenes, stage, small_config.seed, step, Rank()), step / small_config.steps)
    broken.save(tmp_path / "broken" / CHECKPOINT)
    resumed = Trainer(small_config)
    resumed.load(tmp_path / "broken" / CHECKPOINT)
    assert resumed.step == stop
    run(resumed, scenes, tmp_path / "broken", quiet=True)
    assert resumed.step == whole.step == small_config.steps
    assert weights_equal(whole, resumed)


def test_plain_pictures_are_scenes_as_they_were_drawn(scenes):
    def shares(plain: float) -> float:
        stage = Stage(128, 1.0, batch=60, masks=2, rounds=1, plain=plain)
        drawn = [scene.image for scene in scenes]
        samples = make_batch(scenes, stage, 0, 0, Rank())
        return np.mean([any(np.array_equal(sample.image, image) for image in drawn) for sample in samples])

    assert shares(0.0) == 0
    assert 0.4 < shares(0.6) < 0.8
    assert shares(1.0) == 1


def test_deep_pictures_are_grey_and_show_the_scene(scenes):
    stage = Stage(128, 1.0, batch=40, masks=2, rounds=1, plain=1.0, deep=0.5)
    samples = make_batch([scenes[0]], stage, 0, 0, Rank())
    plain = [np.array_equal(sample.image, scenes[0].image) for sample in samples]
    assert 0.3 < np.mean(plain) < 0.7
    grey = scenes[0].image @ np.float32([0.299, 0.587, 0.114])
    for sample in (sample for sample, same in zip(samples, plain, strict=True) if not same):
        assert np.array_equal(sample.image[..., 0], sample.image[..., 2])
        assert (sample.image.min(), sample.image.max()) == (0, 255)  # scaled as the server scales 16-bit files
        assert np.corrcoef(sample.image[..., 0].ravel(), grey.ravel())[0, 1] > 0.4


def test_a_run_starts_from_a_checkpoint(small_config):
    first, second = Trainer(small_config), Trainer(replace(small_config, seed=8))
    assert not weights_equal(first, second)
    second.start_from(first.sam.state_dict())
    assert weights_equal(first, second)
    with pytest.raises(WeightsError, match="missing"):
        second.start_from({})


def test_a_part_is_trained_and_the_rest_stays(small_config, scenes, tmp_path):
    part = "mask_decoder.iou_prediction_head"
    before = Trainer(small_config).sam.state_dict()
    after = train(replace(small_config, part=part, dense=0.0), scenes, tmp_path).sam.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {key for key in before if key.startswith(part)}
    with pytest.raises(ValueError, match=r"no weights of small .* begin with 'iou_head'"):
        Trainer(replace(small_config, part="iou_head"))


def test_a_checkpoint_of_another_config_is_refused(small_config, tmp_path):
    Trainer(small_config).save(tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="another config"):
        Trainer(replace(small_config, learning_rate=2e-3)).load(tmp_path / CHECKPOINT)


def test_log_and_curves(small_config, scenes, tmp_path):
    train(replace(small_config, steps=40), scenes, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40]
    assert [line["size"] for line in lines] == [64, 128]
    assert all(line["loss"] > 0 for line in lines)
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_minutes_end_a_run(small_config, scenes, tmp_path):
    trainer = Trainer(replace(small_config, steps=1_000_000))
    run(trainer, scenes, tmp_path, minutes=0.02, quiet=True)
    assert 0 < trainer.step < 1000
    assert trainer.seconds >= 1.2


def test_a_run_that_is_stopped_goes_on_where_it_stood(small_config, tmp_path):
    config, log, steps = tmp_path / "config.json", tmp_path / "run" / LOG, []
    config.write_text(replace(small_config, steps=1_000_000, scenes=4).to_json())
    command = [sys.executable, "-m", "training.train", "--config", str(config), "--threads", "1"]
    command += ["--scenes", str(tmp_path / "scenes"), "--out", str(log.parent), "--device", "cpu"]
    for _ in range(2):
        log.unlink(missing_ok=True)
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not log.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == 0
        steps.append(read_checkpoint(log.parent / CHECKPOINT)["step"])
    first_logged = json.loads(log.read_text().splitlines()[0])["step"]
    assert 20 <= steps[0] < first_logged <= steps[1]


def test_config_round_trip():
    config = TrainConfig.read(ROOT / "training" / "configs" / "tiny.json")
    assert TrainConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["variant"] == "tiny"
    with pytest.raises(ValueError, match="unknown fields: speed"):
        TrainConfig.from_json('{"variant": "tiny", "stages": [], "steps": 1, "speed": 2}')
    with pytest.raises(ValueError, match="unknown variant 'vit_z'"):
        TrainConfig.from_json('{"variant": "vit_z", "stages": [], "steps": 1}')


def test_export_is_what_the_server_loads(small_config, tmp_path):
    trainer = Trainer(small_config)
    digest = export(trainer.average, small_config.variant, tmp_path)
    assert (tmp_path / HASHES).read_text() == f"{digest}  {WEIGHTS}\n"
    assert all(value.dtype == torch.float16 for value in load_file(tmp_path / WEIGHTS).values())
    assert load_pytorch_sam(tmp_path / WEIGHTS, use_gpu=False).spec == small_config.variant.spec


def test_two_processes_share_a_step(small_config, tmp_path):
    # The mean of two processes' gradients moves the weights of both alike.
    script = tmp_path / "share.py"
    script.write_text(
        "import sys, torch, torch.distributed as dist\n"
        "from pathlib import Path\n"
        "from training.config import TrainConfig\n"
        "from training.scenes import draw\n"
        "from training.trainer import Trainer, join_processes, make_batch\n"
        "torch.set_num_threads(1)\n"
        "rank = join_processes()\n"
        "config = TrainConfig.read(Path(sys.argv[1]))\n"
        "scenes = [draw('blobs', 2, 128)]\n"
        "trainer = Trainer(config, rank)\n"
        "for step in range(2):\n"
        "    trainer.train_step(make_batch(scenes, config.stages[0], 0, step, rank), 0.5)\n"
        "own = torch.cat([p.flatten() for p in trainer.sam.parameters()]).detach()\n"
        "others = [torch.empty_like(own) for _ in range(2)]\n"
        "dist.all_gather(others, own)\n"
        "assert torch.equal(others[0], others[1]), 'weights drifted apart'\n"
        "dist.destroy_process_group()\n"
        # A thread of the group that outlives it aborts the process now and then, while the interpreter ends.
        "names = [path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')]\n"
        "assert not [name for name in names if 'gloo' in name], names\n"
    )
    (tmp_path / "config.json").write_text(small_config.to_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "config.json")],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
