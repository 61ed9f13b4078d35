import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from pytorch_sam_wrapper import find_variant, load_pytorch_sam
from sam_server.network.variants import SamVariant
from training.config import Stage, TrainConfig
from training.export import export
from training.finetune import NAME, finetune, main, make_config, measure_all, start_from
from training.labelled_folder import LabelsError, make_scene, read_folder
from training.trainer import Trainer

TINY = Path(__file__).resolve().parents[2] / "model" / "tiny" / "sam_tiny.safetensors"


def crosses(seed: int, size: int = 128):
    """A kind of picture that the trainer's scenes do not have: bright crosses on stripes."""
    rng = np.random.default_rng(seed)
    image = np.empty((size, size, 3), np.uint8)
    image[:] = 90 + 25 * np.sign(np.sin(np.arange(size) / 3))[None, :, None]
    masks = []
    for x, y in ((32, 32), (96, 36), (36, 94), (92, 96)):
        arm, width = int(rng.integers(18, 26)), int(rng.integers(10, 15))
        cross = np.zeros((size, size), np.uint8)
        cv2.line(cross, (x - arm, y), (x + arm, y), 1, width)
        cv2.line(cross, (x, y - arm), (x, y + arm), 1, width)
        image[cross > 0] = rng.integers(120, 200, 3)
        masks.append(cross > 0)
    return make_scene(image, masks, "crosses")


def halos(seed: int, size: int = 256):
    """Dots of which, by this laboratory's habit, a wide faint halo is part: no other scene is labelled so."""
    rng = np.random.default_rng(seed)
    image = rng.normal(120, 4, (size, size)).astype(np.float32)
    masks = []
    for x, y in ((64, 64), (190, 70), (70, 190), (186, 188)):
        radius = int(rng.integers(9, 15))
        halo, dot = (np.zeros((size, size), np.uint8) for _ in range(2))
        cv2.circle(halo, (x, y), int(radius * 2.6), 1, -1)
        cv2.circle(dot, (x, y), radius, 1, -1)
        image += cv2.GaussianBlur(halo * np.float32(14), (0, 0), 2) - dot * np.float32(70)
        masks.append(halo > 0)
    picture = np.clip(image, 0, 255).astype(np.uint8)
    return make_scene(np.repeat(picture[..., None], 3, axis=2), masks, "halos")


def click_iou(sam, scenes) -> float:
    return float(np.mean([item.click for item in measure_all(sam, scenes)]))


@pytest.fixture(scope="module")
def untrained(small_variant: SamVariant, tmp_path_factory):
    """A checkpoint of a small SAM."""
    folder = tmp_path_factory.mktemp("untrained")
    export(
        Trainer(TrainConfig(small_variant, (Stage(128, 1, 1, 1, 1),), 1)).average,
        small_variant,
        folder,
        "a.safetensors",
    )
    return folder / "a.safetensors"


class TestFineTuning:
    def test_ten_pictures_of_a_new_kind(self):
        used, aside = [halos(seed) for seed in range(10)], [halos(seed) for seed in range(100, 103)]
        config = TrainConfig(
            find_variant(TINY, None),
            (Stage(512, 1.0, batch=2, masks=4, rounds=1),),
            steps=24,
            learning_rate=2e-3,
            ema=0.9,
        )
        trainer = start_from(TINY, config)
        before = click_iou(trainer.sam, aside)
        encoder = {key: value.clone() for key, value in trainer.sam.image_encoder.state_dict().items()}
        tuned = finetune(start_from(TINY, config), used, "decoder", quiet=True)
        assert click_iou(tuned, aside) > before + 0.1
        assert all(torch.equal(encoder[key], value) for key, value in tuned.image_encoder.state_dict().items())

    def test_all_changes_the_encoder_too(self, untrained, small_variant):
        config = make_config(small_variant, steps=2, batch=1, rate=1e-3, seed=0)
        trainer = start_from(untrained, config)
        encoder = {key: value.clone() for key, value in trainer.sam.image_encoder.state_dict().items()}
        tuned = finetune(trainer, [crosses(1)], "all", quiet=True)
        assert any(not torch.equal(encoder[key], value) for key, value in tuned.image_encoder.state_dict().items())

    def test_unknown_part(self, untrained, small_variant):
        trainer = start_from(untrained, make_config(small_variant, 1, 1, 1e-3, 0))
        with pytest.raises(ValueError, match="unknown part 'head'"):
            finetune(trainer, [crosses(1)], "head")

    def test_command_line(self, untrained, tmp_path, monkeypatch, capsys):
        for seed in range(3):
            scene = crosses(seed)
            Image.fromarray(scene.image).save(tmp_path / f"{seed}.png")
            Image.fromarray(scene.labels.astype(np.uint8)).save(tmp_path / f"{seed}_mask.png")
        out = tmp_path / "mine"
        arguments = ["--pictures", str(tmp_path), "--checkpoint", str(untrained), "--out", str(out), "--steps", "2"]
        monkeypatch.setattr("sys.argv", ["finetune", *arguments, "--aside", "0.34"])
        main()
        assert "after: 1 click" in capsys.readouterr().out
        assert load_pytorch_sam(out / NAME, use_gpu=False).spec.image_size == 128


class TestFolders:
    def test_label_maps(self, tmp_path):
        scene = crosses(1)
        (tmp_path / "masks").mkdir()
        Image.fromarray(scene.image).save(tmp_path / "a.png")
        Image.fromarray(scene.labels.astype(np.uint8)).save(tmp_path / "masks" / "a.png")
        Image.fromarray(scene.image).save(tmp_path / "b.jpg")
        tifffile.imwrite(tmp_path / "b_mask.tif", scene.labels * 300)
        Image.fromarray(scene.image).save(tmp_path / "unlabelled.png")
        read = read_folder(tmp_path)
        assert [item.kind for item in read] == ["a.png", "b.jpg"]
        for item in read:
            masks = {item.mask(node).tobytes() for node in item.nodes()}
            assert masks == {scene.mask(node).tobytes() for node in scene.nodes()}

    def test_coco(self, tmp_path):
        scene = crosses(2)
        Image.fromarray(scene.image).save(tmp_path / "a.png")
        masks = [scene.mask(node) for node in scene.nodes()]
        encoded = coco_mask.encode(np.asfortranarray(masks[0].astype(np.uint8)))
        counts = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        square = [[10.0, 50.0, 30.0, 50.0, 30.0, 70.0, 10.0, 70.0]]
        content = {
            "images": [{"id": 7, "file_name": "a.png", "height": 128, "width": 128}],
            "annotations": [
                {"image_id": 7, "segmentation": counts},
                {"image_id": 7, "segmentation": square},
            ],
        }
        (tmp_path / "labels.json").write_text(json.dumps(content))
        (read,) = read_folder(tmp_path, tmp_path / "labels.json")
        assert {np.count_nonzero(read.mask(node)) for node in read.nodes()} == {np.count_nonzero(masks[0]), 400}

    def test_a_mask_within_another_is_its_part(self):
        whole, part, beside = (np.zeros((40, 40), bool) for _ in range(3))
        whole[5:30, 5:30], part[10:20, 10:20], beside[28:38, 28:38] = True, True, True
        scene = make_scene(np.zeros((40, 40, 3), np.uint8), [part, beside, whole], "by hand")
        assert scene.parents.tolist()[:2] == [0, 0]
        assert sorted(scene.parents.tolist()) == [0, 0, 0, 1]
        np.testing.assert_array_equal(scene.mask(1) | beside, whole | beside)

    def test_sizes_must_match(self, tmp_path):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
        Image.fromarray(np.ones((30, 20), np.uint8)).save(tmp_path / "a_mask.png")
        with pytest.raises(LabelsError, match="sizes must be equal"):
            read_folder(tmp_path)

    def test_nothing_to_read(self, tmp_path):
        with pytest.raises(LabelsError, match="has masks"):
            read_folder(tmp_path)
        with pytest.raises(LabelsError, match="is not a folder"):
            read_folder(tmp_path / "none")
