"""What every backend is: one interface for PyTorch and ONNX. Needs neither.

A backend holds weights and nothing of any picture: `encode` and `decode` may be called from many
threads at once, and what belongs to a picture travels in `ImageEmbedding`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from sam_server.arrays import ByteArray, FloatArray, IntArray
from sam_server.prompts import PromptBatch

# Upscaling of the mask decoder: low-res masks have four times the side of the image embedding.
LOW_RES_SCALE = 4
# Channels of the official models, whose decoders bear bf16.
WIDE_DECODER = 256


@dataclass(frozen=True)
class ModelSpec:
    """What a caller must know of a model to prepare pictures and read masks.

    Attributes:
        model_type: name of the variant, such as "vit_b".
        image_size: side of the square model input, in pixels.
        embedding_size: side of the image embedding, in cells (image_size / stride).
        embedding_channels: channels of the image embedding.
        mask_threshold: logit above which a pixel is foreground.
        pixel_mean: mean of the RGB channels in 0..255, subtracted before encoding.
        pixel_std: standard deviation of the RGB channels in 0..255.
    """

    model_type: str
    image_size: int = 1024
    embedding_size: int = 64
    embedding_channels: int = 256
    mask_threshold: float = 0.0
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    @property
    def low_res_size(self) -> int:
        """Side of the low-res masks, in pixels."""
        return self.embedding_size * LOW_RES_SCALE

    def decoder_precision(self, precision: str) -> str:
        """In which precision the mask decoder computes where the image encoder computes in `precision`.

        A narrow decoder stays in fp32 where bf16 is asked for. With model/tiny, whose products have 12 to 96 terms,
        masks in bf16 had a mean IoU of 0.86 (PyTorch) and 0.92 (OpenVINO) with those in fp32; 0.99 with this.
        """
        return "fp32" if precision == "bf16" and self.embedding_channels < WIDE_DECODER else precision


@dataclass(frozen=True)
class PreparedImage:
    """A picture resized for the model, before normalisation and padding.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, longest side equal to the model's image_size.
        original_size: (H, W) of the picture in its own pixels.
    """

    pixels: ByteArray
    original_size: tuple[int, int]

    @property
    def input_size(self) -> tuple[int, int]:
        """(h, w) that the picture fills of the square model input; the rest is padding."""
        return (self.pixels.shape[0], self.pixels.shape[1])


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """One encoded picture, where its backend keeps it; equal to itself alone.

    Attributes:
        data: the backend's own array of shape (1, C, E, E): a torch.Tensor, an OrtValue or a NumPy array.
        original_size: (H, W) of the picture.
        input_size: (h, w) that the picture fills of the model input.
        nbytes: memory that `data` holds, in bytes.
    """

    data: Any
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    nbytes: int


@dataclass(frozen=True)
class LowResMasks:
    """What the decoder answers for N prompts with M masks each.

    Attributes:
        logits: (N, M, L, L) float32 mask logits, L = ModelSpec.low_res_size.
        iou: (N, M) float32 predicted IoU.
    """

    logits: FloatArray
    iou: FloatArray


@dataclass(frozen=True)
class Candidates:
    """The masks of a batch of prompts that promise to be good.

    Attributes:
        prompt: (K,) int64 index of the prompt a mask belongs to, ascending.
        logits: (K, L, L) float32 mask logits.
        iou: (K,) float32 predicted IoU.
    """

    prompt: IntArray
    logits: FloatArray
    iou: FloatArray


@dataclass(frozen=True)
class BackendInfo:
    """The truth about a loaded backend, as /backend_info tells it.

    Attributes:
        backend: "pytorch" or "onnx".
        device: where the model runs now, such as "cuda:0", "mps" or "cpu".
        precision: "fp32", "bf16", "fp16" or "int8".
        engine: what computes, with version, such as "torch 2.13.0" or "openvino 2026.4".
        onnx_providers: execution providers bound by the loaded session; empty for PyTorch.
        model_files: paths of the files that were loaded.
        sha256: hash of the checkpoint the weights came from, or None where unknown.
        notes: what did not go as asked, in plain sentences (a device that was refused, and why).
    """

    backend: str
    device: str
    precision: str
    engine: str
    onnx_providers: tuple[str, ...] = ()
    model_files: tuple[str, ...] = ()
    sha256: str | None = None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of the GPU that a backend runs on, in bytes.

    Attributes:
        used: held by arrays of this process.
        reserved: kept by this process's allocator, `used` included.
        free: free on the device, for every process.
        total: of the device.
    """

    used: int
    reserved: int
    free: int
    total: int


@runtime_checkable
class KnowsDeviceMemory(Protocol):
    """A backend that can tell how full its device is."""

    def device_memory(self) -> DeviceMemory | None:
        """The memory of the device; None where it is no GPU that tells."""
        ...


@runtime_checkable
class LoadsEmbeddings(Protocol):
    """A backend that takes back what `SamBackend.embedding_array` gave."""

    def load_embedding(
        self, array: FloatArray, original_size: tuple[int, int], input_size: tuple[int, int]
    ) -> ImageEmbedding:
        """An embedding of such numbers, where the backend keeps its own.

        Args:
            array: (C, E, E) float32.
            original_size: (H, W) of the picture.
            input_size: (h, w) that the picture fills of the model input.
        """
        ...


@runtime_checkable
class SamBackend(Protocol):
    """The interface that PyTorchSam and OnnxSam share."""

    @property
    def spec(self) -> ModelSpec:
        """What the loaded model expects and gives."""
        ...

    @property
    def info(self) -> BackendInfo:
        """What runs, and where."""
        ...

    def encode(self, images: Sequence[PreparedImage]) -> list[ImageEmbedding]:
        """Encode a batch of pictures.

        Args:
            images: pictures from `transforms.prepare` for this backend's spec; shapes may differ.

        Returns:
            One embedding per picture, in order.
        """
        ...

    def decode(
        self,
        embedding: ImageEmbedding,
        prompts: PromptBatch,
        multimask_output: bool,
    ) -> LowResMasks:
        """Decode N prompts on one picture.

        Args:
            embedding: what this backend's `encode` gave.
            prompts: N prompts of one shape, in model input pixels.
            multimask_output: three masks a prompt (whole, part, subpart) if true, else one.

        Returns:
            Low-res logits (N, M, L, L) and predicted IoU (N, M), M = 3 or 1.
        """
        ...

    def decode_above(self, embedding: ImageEmbedding, prompts: PromptBatch, min_iou: float) -> Candidates:
        """Decode N prompts with three masks each, and keep those whose predicted IoU is above `min_iou`.

        The same masks as `decode` gives and in its order, prompt by prompt; a backend may leave out the work on masks
        that are not kept.
        """
        ...

    def embedding_array(self, embedding: ImageEmbedding) -> FloatArray:
        """A copy of what `encode` gave, (C, E, E) float32, for work on it outside of the model."""
        ...
