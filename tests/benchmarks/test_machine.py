"""Work and peak that the floor is made of."""

from dataclasses import replace

import torch

from benchmarks.machine import count_flops, gemm_peak, processor_name
from benchmarks.settings import SMALL


def test_flops_of_the_image_encoder_by_hand():
    variant = replace(SMALL, depth=1, global_blocks=(0,), image_size=128)
    cells, width, channels, heads = 8 * 8, variant.width, variant.embedding_channels, variant.heads
    head = width // heads
    products = (
        cells * 3 * 16 * 16 * width  # patches
        + cells * width * 3 * width  # q, k, v
        + 2 * heads * cells * cells * head  # scores and their use
        + 2 * heads * cells * 8 * head  # relative positions in rows and columns
        + cells * width * width  # projection
        + 2 * cells * width * 4 * width  # MLP
        + cells * width * channels  # neck, 1 x 1
        + cells * 9 * channels * channels  # neck, 3 x 3
    )
    assert count_flops(variant)["encode"] == 2 * products


def test_peak_is_positive():
    assert gemm_peak(torch.float32, torch.device("cpu"), seconds=0.01) > 0


def test_processor_has_a_name():
    assert len(processor_name()) > 5
