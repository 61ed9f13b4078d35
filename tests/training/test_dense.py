"""The loss over all objects of a picture, which trains the image encoder beside the prompts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.dense import CODE_CHANNELS, LEVELS, PLACE_STRIDE, DenseHead, dense_loss, node_maps
from training.scenes import draw
from training.trainer import Rank, Trainer, make_batch, to_tensors


@pytest.fixture(scope="module")
def nested():
    return draw("nested", 2, 256)


def codes_of(nodes: torch.Tensor, apart: float) -> torch.Tensor:
    """(1, LEVELS, D, H, W) codes that lie `apart` for two nodes and together for one."""
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(int(nodes.max()) + 1, CODE_CHANNELS)))
    table = torch.nn.functional.normalize(table) * apart
    return table[nodes].movedim(-1, 2)


def test_places_know_the_part_and_the_whole_that_they_show(nested):
    part, whole = node_maps(nested.labels, nested.parents)
    middle = slice(PLACE_STRIDE // 2, None, PLACE_STRIDE)
    np.testing.assert_array_equal(part, nested.labels[middle, middle])
    assert nested.parents[np.unique(whole)].max() == 0
    for root in set(np.unique(whole)) - {0}:
        np.testing.assert_array_equal(whole == root, nested.mask(root)[middle, middle])
    assert (part != whole).any()


def test_codes_that_tell_objects_apart_cost_nothing_and_codes_that_do_not_cost_much(nested):
    nodes = torch.from_numpy(node_maps(nested.labels, nested.parents).astype(np.int64))[None]
    scattered = torch.from_numpy(np.random.default_rng(0).normal(size=codes_of(nodes, 1.0).shape))
    good, blind, wrong = (
        float(dense_loss(codes, nodes, np.random.default_rng(1)))
        for codes in (codes_of(nodes, 4.0), torch.zeros_like(scattered), scattered)
    )
    assert good < 0.1 < 1 < blind < wrong


def test_a_picture_of_background_alone_has_a_loss():
    nodes = torch.zeros(1, LEVELS, 32, 32, dtype=torch.int64)
    codes = torch.zeros(1, LEVELS, CODE_CHANNELS, 32, 32, requires_grad=True)
    loss = dense_loss(codes, nodes, np.random.default_rng(0))
    loss.backward()
    assert 0 < float(loss.detach()) < 0.2
    assert torch.isfinite(codes.grad).all()


def test_pairs_are_those_of_the_seed(nested):
    nodes = torch.from_numpy(node_maps(nested.labels, nested.parents).astype(np.int64))[None]
    codes = codes_of(nodes, 1.0)
    first, again, other = (float(dense_loss(codes, nodes, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert first == again != other


def test_head_has_codes_at_four_pixels():
    assert DenseHead(96, 8)(torch.zeros(2, 96, 16, 16)).shape == (2, LEVELS, CODE_CHANNELS, 32, 32)


def test_training_with_it_teaches_the_encoder_where_objects_end(small_config):
    scenes = [draw("coins", 1, 128)]

    def loss_after(steps: int) -> float:
        trainer = Trainer(replace(small_config, dense=2.0, learning_rate=3e-3, steps=60))
        stage = trainer.config.stage_at(0.0)
        for step in range(steps):
            trainer.train_step(make_batch(scenes, stage, 1, 0, Rank()), (step + 5) / 60)
        samples = make_batch(scenes, stage, 1, 0, Rank())
        images, _ = to_tensors(samples, trainer.sam, trainer.device)
        with torch.no_grad():
            codes = trainer.dense_head(trainer.sam.image_encoder(images))
        nodes = torch.from_numpy(np.stack([sample.nodes for sample in samples]).astype(np.int64))
        return float(dense_loss(codes, nodes, np.random.default_rng(3)))

    assert loss_after(40) < 0.7 * loss_after(0)
