"""Embeddings of points, boxes, masks and cells."""

import math

import pytest
import torch

from sam_server.network.prompt_encoder import PromptEncoder
from sam_server.network.variants import SamVariant

VARIANT = SamVariant(
    "small", width=32, depth=1, heads=2, window=0, global_blocks=(), image_size=128, embedding_channels=64
)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(VARIANT).eval().requires_grad_(False)


def test_a_cell_is_encoded_as_its_centre(encoder: PromptEncoder) -> None:
    dense = encoder.dense_pe()
    assert dense.shape == (1, 64, 8, 8)
    row, column = 5, 2
    centre = torch.tensor([(column + 0.5) / 8, (row + 0.5) / 8])
    phases = 2 * math.pi * ((2 * centre - 1) @ encoder.pe_layer.positional_encoding_gaussian_matrix)
    torch.testing.assert_close(dense[0, :, row, column], torch.cat([phases.sin(), phases.cos()]), atol=1e-5, rtol=0)


def test_cells_of_another_size(encoder: PromptEncoder) -> None:
    """Cells of half the size: the middle of a 2 x 2 group lies on no centre, but every odd third of them does."""
    assert encoder.dense_pe(24).shape == (1, 64, 24, 24)
    torch.testing.assert_close(encoder.dense_pe(24)[..., 1::3, 1::3], encoder.dense_pe(), atol=1e-4, rtol=0)


def test_a_point_on_a_cell_equals_the_cell(encoder: PromptEncoder) -> None:
    """Pixel 23.5 has its centre at 24 of 128, which is the centre of cell 1 of 8."""
    kinds = encoder.point_embeddings[1].weight[0]
    point = encoder.embed_points(torch.tensor([[[23.5, 55.5]]]), torch.tensor([[1]]))
    torch.testing.assert_close(point[0, 0] - kinds, encoder.dense_pe()[0, :, 3, 1], atol=1e-5, rtol=0)


def test_labels_choose_what_is_added(encoder: PromptEncoder) -> None:
    coords = torch.full((1, 5, 2), 30.0)
    found = encoder.embed_points(coords, torch.tensor([[-1, 0, 1, 2, 3]]))[0]
    assert torch.equal(found[0], encoder.not_a_point_embed.weight[0])  # wherever a padding point lies
    position = encoder.pe_layer((coords[0, 0] + 0.5) / 128)
    for label in range(4):
        torch.testing.assert_close(found[1 + label], position + encoder.point_embeddings[label].weight[0])


def test_another_input_size_scales_coordinates(encoder: PromptEncoder) -> None:
    labels = torch.tensor([[1]])
    half = encoder.embed_points(torch.tensor([[[15.0, 20.0]]]), labels, image_size=64)
    assert torch.equal(half, encoder.embed_points(torch.tensor([[[30.5, 40.5]]]), labels))


def test_prompts_without_points(encoder: PromptEncoder) -> None:
    sparse, dense = encoder(torch.zeros(3, 0, 2), torch.zeros(3, 0, dtype=torch.int64), torch.randn(3, 1, 32, 32))
    assert sparse.shape == (3, 0, 64)
    assert dense.shape == (3, 64, 8, 8)


def test_no_mask_is_one_vector_for_all_cells(encoder: PromptEncoder) -> None:
    _, dense = encoder(torch.zeros(2, 1, 2), torch.zeros(2, 1, dtype=torch.int64))
    assert torch.equal(dense, encoder.no_mask_embed.weight.view(1, 64, 1, 1))


@pytest.mark.parametrize("mask", [False, True])
def test_prompts_of_a_batch_equal_those_alone(encoder: PromptEncoder, mask: bool) -> None:
    coords, labels = torch.rand(4, 3, 2) * 128, torch.randint(-1, 4, (4, 3))
    masks = torch.randn(4, 1, 32, 32) if mask else None
    sparse, dense = encoder(coords, labels, masks)
    for row in range(4):
        one = slice(row, row + 1)
        alone, alone_dense = encoder(coords[one], labels[one], None if masks is None else masks[one])
        torch.testing.assert_close(sparse[one], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(dense[one] if mask else dense, alone_dense, atol=1e-5, rtol=0)
