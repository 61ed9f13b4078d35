"""A picture and prompts in, masks in the picture's own pixels out; for any backend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam_server import transforms
from sam_server.arrays import BoolArray, ByteArray, FloatArray
from sam_server.backend import ImageEmbedding, ModelSpec, SamBackend
from sam_server.prompts import Prompt

# Prompts that go through the decoder in one call; more come in turns, so that memory stays bounded.
MAX_BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The masks of one prompt.

    Attributes:
        logits: (M, L, L) float32 low-res logits; one of them as `Prompt.mask_input` continues from it.
        iou: (M,) float32 predicted IoU.
        spec: of the model that answered.
        input_size: (h, w) that the picture fills of the model input.
        original_size: (H, W) of the picture.
    """

    logits: FloatArray
    iou: FloatArray
    spec: ModelSpec
    input_size: tuple[int, int]
    original_size: tuple[int, int]

    def mask(self, index: int) -> BoolArray:
        """Mask `index` as (H, W) bool, made when it is asked for: full-size masks are large."""
        return transforms.to_mask(self.logits[index], self.spec, self.input_size, self.original_size)

    @property
    def masks(self) -> BoolArray:
        """All masks, (M, H, W) bool."""
        masks = np.empty((len(self.iou), *self.original_size), np.bool_)
        for logits, out in zip(self.logits, masks, strict=True):
            transforms.to_mask(logits, self.spec, self.input_size, self.original_size, out)
        return masks


class Predictor:
    """Encodes pictures and decodes prompts with one backend; holds nothing of any picture."""

    def __init__(self, backend: SamBackend) -> None:
        self.backend = backend

    def encode(self, pixels: ByteArray) -> ImageEmbedding:
        """Encode one (H, W, 3) uint8 RGB picture."""
        return self.encode_batch([pixels])[0]

    def encode_batch(self, pictures: Sequence[ByteArray]) -> list[ImageEmbedding]:
        """Encode (H, W, 3) uint8 RGB pictures of any shapes in one call of the backend."""
        size = self.backend.spec.image_size
        return self.backend.encode([transforms.prepare(pixels, size) for pixels in pictures])

    def predict(
        self, embedding: ImageEmbedding, prompts: Sequence[Prompt], multimask_output: bool = True
    ) -> list[Prediction]:
        """Decode prompts on an encoded picture.

        Prompts of one shape are decoded together. Nothing is padded to join different shapes: a padding point
        changes the answer, and a prompt must get the same mask alone and in company.

        Args:
            embedding: what `encode` gave.
            prompts: prompts in the picture's pixels.
            multimask_output: three masks a prompt if true, else one.

        Returns:
            One prediction per prompt, in order.
        """
        rows_by_shape: dict[tuple[int, bool, bool], list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows_by_shape.setdefault(prompt.shape, []).append(row)
        answers: dict[int, Prediction] = {}
        for rows in rows_by_shape.values():
            for start in range(0, len(rows), MAX_BATCH):
                chunk = rows[start : start + MAX_BATCH]
                found = self._decode(embedding, [prompts[row] for row in chunk], multimask_output)
                answers.update(zip(chunk, found, strict=True))
        return [answers[row] for row in range(len(prompts))]

    def _decode(self, embedding: ImageEmbedding, prompts: Sequence[Prompt], multimask_output: bool) -> list[Prediction]:
        sizes = (embedding.original_size, embedding.input_size)
        low_res = self.backend.decode(embedding, transforms.batch_prompts(prompts, *sizes), multimask_output)
        return [
            Prediction(logits, iou, self.backend.spec, embedding.input_size, embedding.original_size)
            for logits, iou in zip(low_res.logits, low_res.iou, strict=True)
        ]
