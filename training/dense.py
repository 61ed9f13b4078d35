"""What a prompt cannot ask for: at every place of a picture, which neighbours belong to the same object.

A prompt teaches the image encoder one outline. A drawn scene knows them all, so a small head on the embedding, which is
thrown away after training, tells pairs of places apart: the encoder learns from every object of a picture at the cost
of one product of matrices.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Pixels of the picture to a place at which codes are compared.
PLACE_STRIDE = 4
# What pairs are compared by: the node seen (the finest part), and the whole object that it belongs to.
LEVELS = 2
CODE_CHANNELS = 24
# Places of a picture that are compared with neighbours, and how many neighbours each.
ANCHORS = 256
NEIGHBOURS = 12
# Deviations of the way to a neighbour, in places: edges are learned from near ones, wholes from far ones.
REACHES = (1.5, 5.0, 16.0)
# Codes nearer than the root of this belong together.
SAME_WITHIN = 2.0


class DenseHead(nn.Module):
    """Codes (B, LEVELS, CODE_CHANNELS, S / 4, S / 4) from embeddings (B, C, E, E) of pictures of side S = 8E."""

    def __init__(self, channels: int, stride: int) -> None:
        """A head for embeddings with `channels` channels, `stride` pixels to a cell."""
        super().__init__()
        self.finer = stride // PLACE_STRIDE
        self.project = nn.Conv2d(channels, LEVELS * CODE_CHANNELS * self.finer**2, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """The codes."""
        codes = F.pixel_shuffle(self.project(embeddings), self.finer)
        return codes.unflatten(1, (LEVELS, CODE_CHANNELS))


def node_maps(labels: npt.NDArray[np.uint16], parents: npt.NDArray[np.int32]) -> npt.NDArray[np.uint16]:
    """(LEVELS, S / 4, S / 4) uint16: the node seen at the middle of each place, and its whole object; 0 is background.

    Args:
        labels: (S, S) node seen at each pixel.
        parents: (K + 1,) the node that holds each node; lower numbers than their parts.
    """
    whole = np.arange(len(parents), dtype=np.uint16)
    for node in np.flatnonzero(parents):
        whole[node] = whole[parents[node]]
    middle = PLACE_STRIDE // 2
    seen = labels[middle::PLACE_STRIDE, middle::PLACE_STRIDE]
    return np.stack([seen, whole[seen]])


def dense_loss(codes: Tensor, nodes: Tensor, rng: np.random.Generator) -> Tensor:
    """Cross-entropy of "the same object", over pairs of near places, of which the first lies on an object.

    Args:
        codes: (B, LEVELS, D, H, W) of a DenseHead.
        nodes: (B, LEVELS, H, W) integers, 0 for background.
        rng: draws the pairs.

    Returns:
        Scalar float32; pairs of the same object and pairs of two count alike. 0 where no picture shows an object.
    """
    count, _, _, height, width = codes.shape
    firsts, seconds = [], []
    for picture in nodes[:, 0].cpu().numpy():
        on_object = np.flatnonzero(picture)
        if not len(on_object):
            on_object = np.zeros(1, np.int64)  # a picture of background alone: its pairs are all of the same
        first = np.repeat(rng.choice(on_object, ANCHORS), NEIGHBOURS)
        reach = np.tile(np.repeat(REACHES, NEIGHBOURS // len(REACHES)), ANCHORS)
        away = np.rint(rng.normal(0, 1, (2, len(first))) * reach).astype(np.int64)
        y = np.clip(first // width + away[0], 0, height - 1)
        x = np.clip(first % width + away[1], 0, width - 1)
        firsts.append(first)
        seconds.append(y * width + x)
    places = torch.from_numpy(np.stack([firsts, seconds])).to(codes.device)  # (2, B, pairs)
    rows = torch.arange(count, device=codes.device)[:, None]
    at = codes.float().flatten(3).permute(0, 3, 1, 2)  # (B, H * W, LEVELS, D)
    labels = nodes.flatten(2).permute(0, 2, 1)
    distance = (at[rows, places[0]] - at[rows, places[1]]).square().sum(-1)  # (B, pairs, LEVELS)
    same = labels[rows, places[0]] == labels[rows, places[1]]
    loss = F.binary_cross_entropy_with_logits(SAME_WITHIN - distance, same.float(), reduction="none")
    shares = [loss[part].mean() for part in (same, ~same) if part.any()]
    return torch.stack(shares).mean()
