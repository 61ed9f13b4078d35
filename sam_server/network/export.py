"""Export SAM to ONNX: the image encoder, our decoder, and the decoder that other people's software expects."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import onnx_ir
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_server.backend import ModelSpec
from sam_server.network import slim
from sam_server.network.fast_decoder import FastDecoder
from sam_server.network.image_encoder_vit import ImageEncoderViT
from sam_server.network.mask_decoder import MASK_TOKENS
from sam_server.network.sam import Sam
from sam_server.onnx.files import DATA_SUFFIX
from sam_server.onnx.metadata import DECODER, ENCODER, STANDARD_DECODER, ModelMetadata

# From opset 23 on, attention is one operator, for which engines have kernels that do not hold the score matrix.
DEFAULT_OPSET = 23
# The first with Gelu as one operator; LayerNormalization came with 17.
OLDEST_OPSET = 20

# Weights of this many bytes and more go to a file of their own: engines map it, where those within a graph are copied
# into memory, twice while it is read. A protobuf would end at 2 GiB anyway.
EXTERNAL_BYTES = 64_000_000

# Sizes of the example that is traced. Neither may be 0 or 1, which torch.export takes for constants.
EXAMPLE_PICTURES = 2
EXAMPLE_PROMPTS = 5
EXAMPLE_POINTS = 3

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float32}

DYNAMIC = torch.export.Dim.DYNAMIC


@dataclass(frozen=True)
class Part:
    """What one file takes of a graph.

    Attributes:
        inputs: names of its inputs, in order.
        outputs: the graph's name of every output, and that in the file, in order.
    """

    inputs: tuple[str, ...]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Graph:
    """A module to trace, with its signature and the files that are made of it.

    Attributes:
        module: what is traced.
        inputs: name, example and names of the dynamic axes of every input, in order.
        outputs: name and names of the dynamic axes of every output, in order.
        parts: by part of the model, what its file has.
    """

    module: nn.Module
    inputs: dict[str, tuple[Tensor, dict[int, str]]]
    outputs: dict[str, dict[int, str]]
    parts: dict[str, Part]


class FloatEncoder(nn.Module):
    """Normalised, padded pictures to image embeddings."""

    def __init__(self, sam: Sam, dtype: torch.dtype) -> None:
        super().__init__()
        self.image_encoder = sam.image_encoder
        self.dtype = dtype

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) float32 to (B, C, E, E) float32."""
        out: Tensor = self.image_encoder(image.to(self.dtype))
        return out.float()


class ByteEncoder(FloatEncoder):
    """Resized pictures to image embeddings."""

    mean: Tensor
    std: Tensor

    def __init__(self, sam: Sam, dtype: torch.dtype) -> None:
        super().__init__(sam, dtype)
        self.image_size = sam.variant.image_size
        self.register_buffer("mean", torch.tensor(sam.variant.pixel_mean))
        self.register_buffer("std", torch.tensor(sam.variant.pixel_std))

    def forward(self, image: Tensor) -> Tensor:
        """(B, h, w, 3) uint8 RGB, h and w at most S, to (B, C, E, E) float32."""
        normed = ((image.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        padding = (0, self.image_size - image.shape[2], 0, self.image_size - image.shape[1])
        return super().forward(F.pad(normed, padding))


class Decoders(nn.Module):
    """Both decoders in one: prompts to low-res masks, of what is asked for or of everything, and to full-size masks.

    They are traced together, for most of a decoder's trace is what they share, and cut apart afterwards.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype) -> None:
        super().__init__()
        self.prompt_encoder = sam.prompt_encoder
        self.image_size = sam.variant.image_size
        self.fast = FastDecoder(sam.mask_decoder, sam.prompt_encoder.dense_pe(), dtype)

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        mask_indices: Tensor,
        min_iou: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Decode N prompts on one picture.

        Args:
            image_embeddings: (1, C, E, E) float32.
            point_coords: (N, P, 2) float32 x, y in model input pixels.
            point_labels: (N, P) float32: 1, 0, 2 and 3 for a box's corners, -1 for padding.
            mask_input: (1, 1, L, L) float32 logits that all prompts continue from.
            has_mask_input: (1,) float32, 1 or 0: whether `mask_input` counts.
            mask_indices: (M,) int64 which of the four masks: 0 the single one, 1 to 3 those of an ambiguous prompt.
            min_iou: (1,) float32: prompts without a chosen mask above it are left out of the masks.
            orig_im_size: (2,) float32 H, W of the picture.

        Returns:
            Of our decoder, which upscales only what is asked for: low-res logits (K, M, L, L) of the K prompts that
            are not left out, in order, and predicted IoU (N, M). Of the standard decoder: logits (N, 4, H, W),
            predicted IoU (N, 4) and low-res logits (N, 4, L, L), as segment_anything/utils/onnx.py defines them.
        """
        tokens, cells = self.attend(image_embeddings, point_coords, point_labels, mask_input, has_mask_input)
        every = slice(0, MASK_TOKENS)
        iou = self.fast.iou(tokens, every)
        chosen = iou.index_select(1, mask_indices)
        rows = (chosen > min_iou).any(dim=1).nonzero()[:, 0]
        kept_tokens, kept_cells = tokens.index_select(0, rows), cells.index_select(0, rows)
        kernels = self.fast.decoder.hyper_kernels(kept_tokens, every).index_select(1, mask_indices)
        low_res = self.fast.masks(tokens, cells, every)
        return self.fast.masks_by(kernels, kept_cells), chosen, self.upscale(low_res, orig_im_size), iou, low_res

    def attend(
        self, image: Tensor, coords: Tensor, labels: Tensor, mask_input: Tensor, has_mask_input: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens (N, T, C) and image (N, I, C) after the transformer."""
        sparse = self.prompt_encoder.embed_points(coords, labels.long())
        has_mask = has_mask_input.reshape(1, 1, 1, 1)
        given, absent = self.prompt_encoder.embed_masks(mask_input), self.prompt_encoder.no_mask()
        return self.fast.attend(image, sparse, has_mask * given + (1 - has_mask) * absent)

    def upscale(self, low_res: Tensor, orig_im_size: Tensor) -> Tensor:
        """Bilinear to the model input, without the padding, bilinear to the picture."""
        size = self.image_size
        original = orig_im_size.long()
        longest = original.max()
        # floor(side * size / longest + 1/2) in integers.
        filled = (2 * original * size + longest) // (2 * longest)
        height, width, new_height, new_width = (
            cast(int, value.item()) for value in (original[0], original[1], filled[0], filled[1])
        )
        # What the tracer cannot know of numbers that stand in a tensor.
        for condition in (height >= 1, width >= 1, new_height >= 1, new_width >= 1):
            torch._check(condition)  # type: ignore[no-untyped-call]
        for condition in (new_height <= size, new_width <= size):
            torch._check(condition)  # type: ignore[no-untyped-call]
        square = F.interpolate(low_res, (size, size), mode="bilinear", align_corners=False)
        cropped = square[..., :new_height, :new_width]
        return F.interpolate(cropped, (height, width), mode="bilinear", align_corners=False)


def export_parts(
    sam: Sam, files: Mapping[Path, ModelMetadata], opset: int = DEFAULT_OPSET, pack: bool = True
) -> list[Path]:
    """Write parts of a model that are traced together as ONNX files that have the plain or half-precision weights.

    Args:
        sam: weights in float32, on the CPU. For fp16 the image encoder is cast where it stands.
        files: NAME.onnx to write, in a directory that exists, and what shall stand in it: which part, in which
            precision, and what else. Either the encoder, or decoders in one precision. Weights of 64 MB and more go
            to NAME.onnx.data beside it.
        opset: version of ONNX's operators, OLDEST_OPSET or newer.
        pack: keep weights that are the same in half precision in half the bytes.

    Returns:
        The files written.

    Raises:
        ValueError: the opset is too old, or the parts are not traced together.
    """
    if opset < OLDEST_OPSET:
        raise ValueError(f"opset {opset} is too old; {OLDEST_OPSET} is the oldest that has every operator of SAM")
    sam = sam.eval().requires_grad_(False)
    graph = _graph(sam, list(files.values()))
    if isinstance(sam.image_encoder, ImageEncoderViT):
        sam.image_encoder.set_attention("unrolled")
    try:
        traced = _translate(graph, opset)
    finally:
        if isinstance(sam.image_encoder, ImageEncoderViT):
            sam.image_encoder.set_attention("auto")
    written = []
    for path, metadata in files.items():
        model = _cut(traced, graph, graph.parts[metadata.part])
        if metadata.part != ENCODER:
            slim.derive_positions(model, sam.prompt_encoder)
        if pack:
            slim.pack(model)
        slim.forget_source(model)
        model.metadata_props.update(metadata.to_properties())
        written += _save(model, path)
    return written


def _graph(sam: Sam, files: list[ModelMetadata]) -> Graph:
    first = files[0]
    graph = _encoder_graph(sam, first) if first.part == ENCODER else _decoders_graph(sam, first)
    for metadata in files:
        if metadata.part not in graph.parts or metadata.precision != first.precision:
            raise ValueError(
                f"{metadata.part!r} in {metadata.precision} is not traced with {first.part!r} in {first.precision}"
            )
    return graph


def _encoder_graph(sam: Sam, metadata: ModelMetadata) -> Graph:
    dtype = DTYPES[metadata.precision]
    sam.image_encoder.to(dtype)
    size = sam.variant.image_size
    outputs = {"image_embeddings": {0: "batch"}}
    parts = {ENCODER: Part(("image",), {"image_embeddings": "image_embeddings"})}
    if metadata.encoder_input == "float":
        image = torch.zeros(EXAMPLE_PICTURES, 3, size, size)
        return Graph(FloatEncoder(sam, dtype), {"image": (image, {0: "batch"})}, outputs, parts)
    image = torch.zeros(EXAMPLE_PICTURES, size - 1, size // 2, 3, dtype=torch.uint8)
    inputs = {"image": (image, {0: "batch", 1: "height", 2: "width"})}
    return Graph(ByteEncoder(sam, dtype), inputs, outputs, parts)


def _decoders_graph(sam: Sam, metadata: ModelMetadata) -> Graph:
    shared = _prompt_inputs(sam.variant.spec)
    own: dict[str, tuple[Tensor, dict[int, str]]] = {
        "mask_indices": (torch.arange(1, MASK_TOKENS), {0: "masks"}),
        "min_iou": (torch.tensor([-torch.inf]), {}),
    }
    standard: dict[str, tuple[Tensor, dict[int, str]]] = {"orig_im_size": (torch.tensor([300.0, 400.0]), {})}
    outputs = {
        "low_res_masks": {0: "kept_prompts", 1: "masks"},
        "iou_predictions": {0: "prompts", 1: "masks"},
        "masks": {0: "prompts", 2: "height", 3: "width"},
        "every_iou": {0: "prompts"},
        "every_low_res": {0: "prompts"},
    }
    parts = {
        DECODER: Part((*shared, *own), {"low_res_masks": "low_res_masks", "iou_predictions": "iou_predictions"}),
        STANDARD_DECODER: Part(
            (*shared, *standard),
            {"masks": "masks", "every_iou": "iou_predictions", "every_low_res": "low_res_masks"},
        ),
    }
    module = Decoders(sam, DTYPES[metadata.precision])
    return Graph(module, {**shared, **own, **standard}, outputs, parts)


def _prompt_inputs(spec: ModelSpec) -> dict[str, tuple[Tensor, dict[int, str]]]:
    cells, low_res = spec.embedding_size, spec.low_res_size
    prompts = {0: "prompts", 1: "points"}
    return {
        "image_embeddings": (torch.zeros(1, spec.embedding_channels, cells, cells), {}),
        "point_coords": (torch.zeros(EXAMPLE_PROMPTS, EXAMPLE_POINTS, 2), prompts),
        "point_labels": (torch.zeros(EXAMPLE_PROMPTS, EXAMPLE_POINTS), prompts),
        "mask_input": (torch.zeros(1, 1, low_res, low_res), {}),
        "has_mask_input": (torch.zeros(1), {}),
    }


def _translate(graph: Graph, opset: int) -> onnx_ir.Model:
    """Trace the module and turn it into an ONNX model that still refers to the module's weights."""
    with _quiet():
        traced = torch.export.export(
            graph.module,
            tuple(example for example, _ in graph.inputs.values()),
            dynamic_shapes=tuple(dict.fromkeys(axes, DYNAMIC) for _, axes in graph.inputs.values()),
            # Without the tracer of bytecode, which takes a quarter longer. So the modules read sizes from shapes: len()
            # would make a dynamic axis a fixed one.
            strict=False,
        )
        program = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=opset,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter of torch gave no model")
    return program.model


def _cut(traced: onnx_ir.Model, graph: Graph, part: Part) -> onnx_ir.Model:
    """A model of its own of what one part takes, with readable names."""
    cut = onnx_ir.convenience.extract(traced.graph, part.inputs, tuple(part.outputs))
    for value in cut.inputs:
        _name_axes(value, graph.inputs[cast(str, value.name)][1])
    for value in cut.outputs:
        name = cast(str, value.name)
        _name_axes(value, graph.outputs[name])
        value.name = part.outputs[name]
    return onnx_ir.Model(
        cut,
        ir_version=traced.ir_version,
        producer_name=traced.producer_name,
        producer_version=traced.producer_version,
        functions=list(traced.functions.values()),
    )


def _name_axes(value: onnx_ir.Value, axes: dict[int, str]) -> None:
    """Give dynamic axes readable names, and check that they and no others are dynamic."""
    shape = value.shape
    if shape is None:
        raise RuntimeError(f"{value.name} was exported without a shape")
    dynamic = {axis for axis in range(len(shape)) if not isinstance(shape[axis], int)}
    if dynamic != set(axes):
        raise RuntimeError(f"{value.name} was exported with dynamic axes {sorted(dynamic)}, expected {sorted(axes)}")
    value.shape = onnx_ir.Shape([axes.get(axis, shape[axis]) for axis in range(len(shape))])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of its own inside; what goes wrong raises."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # torch 2.13 uses a part of its pytree module that it deprecates, and so does copyreg for it.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _save(model: onnx_ir.Model, path: Path) -> list[Path]:
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights < EXTERNAL_BYTES:
        onnx_ir.save(model, path)
        return [path]
    data = path.with_name(path.name + DATA_SUFFIX)
    onnx_ir.save(model, path, external_data=data.name)
    return [path, data]
