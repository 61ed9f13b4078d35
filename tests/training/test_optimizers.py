from dataclasses import replace

import pytest
import torch

from sam_server.network.sam import build_sam
from training.optimizers import KernelMuon, make_optimizers
from training.scenes import draw
from training.trainer import Rank, Trainer, make_batch


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_optimised_once(small_variant, name):
    sam = build_sam(small_variant)
    optimizers = make_optimizers(sam, name, 0.05)
    places = [
        parameter.data_ptr()
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    # A parameter and the matrix that Muon sees of it share their memory.
    assert sorted(places) == sorted(parameter.data_ptr() for parameter in sam.parameters())


def test_muon_moves_a_kernel_alike_in_all_directions():
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    before = kernel.detach().clone()
    muon = KernelMuon([kernel], weight_decay=0.0)
    muon.param_groups[0]["lr"] = 0.1
    # A gradient whose directions differ in size by a factor of 10.
    u, _, v = torch.linalg.svd(torch.randn(8, 36), full_matrices=False)
    kernel.grad = (u @ torch.diag(torch.linspace(1, 10, 8)) @ v).reshape(kernel.shape)
    muon.step()
    moved = (kernel.detach() - before).reshape(8, 36)
    sizes = torch.linalg.svdvals(moved) / (0.1 * 0.2 * 36**0.5)
    assert sizes.min() > 0.5
    assert sizes.max() < 1.5
    assert (moved * kernel.grad.reshape(8, 36)).sum() < 0


def test_muon_lowers_the_loss(small_config):
    config = replace(small_config, optimizer="muon", warmup=0.0, balanced=0.0)
    trainer = Trainer(config)
    samples = make_batch([draw("coins", 1, 128)], config.stages[1], 0, 0, Rank())
    losses = [trainer.train_step(samples, 0.5).loss for _ in range(12)]
    assert min(losses[-3:]) < losses[0]


def test_unknown_optimizer_is_named(small_variant):
    with pytest.raises(ValueError, match="unknown optimizer 'sgd'; known are adamw, muon"):
        make_optimizers(build_sam(small_variant), "sgd", 0.0)
