"""OnnxSam: the backend that runs SAM from ONNX files, without torch.

sam = load_onnx_sam(Path("model/onnx"), "vit_b")
predictor = Predictor(sam)  # sam_server/predictor.py
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam_server import transforms
from sam_server.arrays import FloatArray, IntArray
from sam_server.backend import BackendInfo, Candidates, ImageEmbedding, LowResMasks, ModelSpec, PreparedImage
from sam_server.onnx.engines import (
    CPU_PROVIDER,
    GPU_PROVIDERS,
    OPENVINO,
    RUNTIME_VERSION,
    Engine,
    OpenVinoEngine,
    OrtEngine,
    available_providers,
    openvino_has_bf16,
)
from sam_server.onnx.files import OnnxFiles, find_files
from sam_server.onnx.metadata import OnnxFileError, command
from sam_server.prompts import PromptBatch
from sam_server.recent import RecentPictures

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")

# Prompts that go through the decoder at once: on a CPU as many as stay in its cache (script/benchmark), which is twice
# as many in half the bytes; on a GPU as many as keep it busy.
CPU_CHUNK = 4
CPU_CHUNK_BF16 = 8
GPU_CHUNK = 64

# The decoder's inputs that do not change from prompt to prompt.
PICTURE_INPUTS = ("image_embeddings", "mask_input", "has_mask_input")

# Which of the decoder's four masks: the first serves unambiguous prompts, the others ambiguous ones.
SINGLE_MASK = np.array([0], np.int64)
MULTIPLE_MASKS = np.array([1, 2, 3], np.int64)


class OnnxSam:
    """SAM from ONNX files behind the `SamBackend` interface.

    Holds weights, and what was derived of the last few pictures; threads may share it.

    Args:
        files: what was loaded.
        encoder, decoder: the same files in an engine.
        precision: in which they compute, for `info`; the decoder in `ModelSpec.decoder_precision` of it.
        notes: what did not go as asked, for `info`.
    """

    def __init__(
        self, files: OnnxFiles, encoder: Engine, decoder: Engine, precision: str, notes: tuple[str, ...] = ()
    ) -> None:
        self._encoder = encoder
        self._decoder = decoder
        self._takes_bytes = files.encoder_metadata.encoder_input == "uint8"
        self._spec = files.encoder_metadata.spec
        on_cpu = CPU_CHUNK_BF16 if self._spec.decoder_precision(precision) == "bf16" else CPU_CHUNK
        self._chunk = on_cpu if decoder.device == "cpu" else GPU_CHUNK
        size = self._spec.low_res_size
        self._no_mask = np.zeros((1, 1, size, size), np.float32)
        self._pictures: RecentPictures[Mapping[str, Any]] = RecentPictures()
        self._info = BackendInfo(
            backend="onnx",
            device=encoder.device,
            precision=precision,
            engine=encoder.name,
            onnx_providers=encoder.providers,
            model_files=(str(files.encoder), str(files.decoder)),
            sha256=files.encoder_metadata.checkpoint_sha256,
            notes=notes,
        )

    @property
    def spec(self) -> ModelSpec:
        """What the loaded model expects and gives."""
        return self._spec

    @property
    def info(self) -> BackendInfo:
        """What runs, and where."""
        return self._info

    def encode(self, images: Sequence[PreparedImage]) -> list[ImageEmbedding]:
        """See `SamBackend.encode`; pictures go through one by one, and embeddings stay on the device."""
        return [self._encode(image) for image in images]

    def decode(self, embedding: ImageEmbedding, prompts: PromptBatch, multimask_output: bool) -> LowResMasks:
        """See `SamBackend.decode`; prompts go through in chunks that stay in cache."""
        chosen = MULTIPLE_MASKS if multimask_output else SINGLE_MASK
        size = self._spec.low_res_size
        logits = np.empty((len(prompts), len(chosen), size, size), np.float32)
        iou = np.empty((len(prompts), len(chosen)), np.float32)
        for start, chunk, masks, predicted in self._run_all(embedding, prompts, chosen, -np.inf):
            rows = slice(start, start + len(chunk))
            iou[rows] = predicted
            if len(masks) != len(chunk):
                raise FloatingPointError(f"{self._info.model_files[1]} predicted an IoU that is not a number")
            logits[rows] = masks
        return LowResMasks(logits, iou)

    def decode_above(self, embedding: ImageEmbedding, prompts: PromptBatch, min_iou: float) -> Candidates:
        """See `SamBackend.decode_above`; prompts without a mask above `min_iou` are never upscaled."""
        found = [
            _above(start, masks, iou, min_iou)
            for start, _, masks, iou in self._run_all(embedding, prompts, MULTIPLE_MASKS, min_iou)
        ]
        return Candidates(
            np.concatenate([candidates.prompt for candidates in found]),
            np.concatenate([candidates.logits for candidates in found]),
            np.concatenate([candidates.iou for candidates in found]),
        )

    def embedding_array(self, embedding: ImageEmbedding) -> FloatArray:
        """See `SamBackend.embedding_array`."""
        data = embedding.data
        batch: FloatArray = data.copy() if isinstance(data, np.ndarray) else data.numpy()
        array: FloatArray = batch[0]
        return array

    def load_embedding(
        self, array: FloatArray, original_size: tuple[int, int], input_size: tuple[int, int]
    ) -> ImageEmbedding:
        """See `LoadsEmbeddings.load_embedding`; the decoder brings it to its device with every call."""
        data = np.ascontiguousarray(array[None], np.float32)
        return ImageEmbedding(data, original_size, input_size, data.nbytes)

    def _encode(self, image: PreparedImage) -> ImageEmbedding:
        picture: npt.NDArray[Any]
        picture = image.pixels if self._takes_bytes else transforms.normalise_and_pad(image, self._spec)
        data = self._encoder.run_on_device({"image": picture[None]})
        nbytes = self._spec.embedding_channels * self._spec.embedding_size**2 * np.dtype(np.float32).itemsize
        return ImageEmbedding(data, image.original_size, image.input_size, nbytes)

    def _run_all(
        self, embedding: ImageEmbedding, prompts: PromptBatch, chosen: IntArray, min_iou: float
    ) -> Iterator[tuple[int, PromptBatch, FloatArray, FloatArray]]:
        """Chunks, each with the number of its first prompt, logits (K, M, L, L) of its prompts with a chosen mask above
        `min_iou`, and IoU (N, M) of all."""
        chunks = list(self._chunks(prompts))
        inputs = (self._inputs(embedding, chunk, chosen, min_iou) for _, chunk in chunks)
        # Of chunks with a mask input, each has a picture of its own, so they are made one by one.
        alone = prompts.mask_input is not None
        results = map(self._decoder.run, inputs) if alone else self._decoder.run_all(list(inputs))
        for (start, chunk), (masks, iou) in zip(chunks, results, strict=True):
            yield start, chunk, masks, iou

    def _inputs(
        self, embedding: ImageEmbedding, prompts: PromptBatch, chosen: IntArray, min_iou: float
    ) -> dict[str, Any]:
        """All inputs of the decoder for one chunk."""
        given = prompts.mask_input
        picture = (
            self._pictures.get(embedding, lambda: self._begin(embedding))
            if given is None
            else self._begin(embedding, given)
        )
        return {
            **picture,
            "point_coords": prompts.point_coords,
            "point_labels": prompts.point_labels.astype(np.float32),
            "mask_indices": chosen,
            "min_iou": np.array([min_iou], np.float32),
        }

    def _begin(self, embedding: ImageEmbedding, mask_input: FloatArray | None = None) -> Mapping[str, Any]:
        """The decoder's inputs that are the same for all prompts on a picture, or what the engine makes of them."""
        values = (
            embedding.data,
            self._no_mask if mask_input is None else mask_input,
            np.array([mask_input is not None], np.float32),
        )
        return self._decoder.begin(dict(zip(PICTURE_INPUTS, values, strict=True)))

    def _chunks(self, prompts: PromptBatch) -> Iterator[tuple[int, PromptBatch]]:
        """Parts of a batch, each with the number of its first prompt; the graph takes one mask input a call."""
        step = self._chunk if prompts.mask_input is None else 1
        if self._decoder.side_by_side > 1 and len(prompts) > step:
            # As fast, and each of the calls holds a quarter of the memory.
            step = max(1, step // 4)
        for start in range(0, len(prompts), step):
            yield start, prompts[start : start + step]


def _above(start: int, masks: FloatArray, iou: FloatArray, min_iou: float) -> Candidates:
    """The good masks of a chunk.

    Args:
        start: number of its first prompt.
        masks: (K, M, L, L) logits of the prompts that the decoder upscaled.
        iou: (N, M) predicted IoU of all its prompts.
        min_iou: what a good mask is above.
    """
    good = iou > np.float32(min_iou)
    rows = np.flatnonzero(good.any(axis=1))
    kept, columns = good[rows].nonzero()
    return Candidates(start + rows[kept], masks[kept, columns], iou[good])


def load_onnx_sam(
    model_dir: Path | str,
    model_type: str,
    providers: Sequence[str] | None = None,
    *,
    use_gpu: bool = True,
    precision: str = "auto",
    fastest: bool = False,
    threads: int | None = None,
) -> OnnxSam:
    """Load the ONNX files of a model and choose what computes them.

    Args:
        model_dir: directory of sam_TYPE_encoder.onnx and sam_TYPE_decoder.onnx.
        model_type: such as "vit_b".
        providers: execution providers by preference, from `available_providers()`: ONNX Runtime's by their names, or
            "OpenVINO". If None, CUDA where it is wanted and works, else OpenVINO, else ONNX Runtime on the CPU.
        use_gpu: take a GPU where one works; of no effect where providers are given.
        precision: "auto" is that of the files; "bf16" computes fp32 files in bf16 (OpenVINO); others must be theirs.
        fastest: let auto take bf16 where the processor has it in hardware.
        threads: processor threads of one computation; the engine's own choice if None.

    Raises:
        OnnxFileError: a file is missing, broken, of another model, version or precision.
        ValueError: a provider or precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; options are {', '.join(PRECISIONS)}")
    files = find_files(Path(model_dir), model_type)
    wanted, notes = _choose_providers(providers, use_gpu)
    used = _choose_precision(files, precision, fastest, wanted)
    encoder = _load(files.encoder, wanted, used, threads, batch=1)
    lost = [name for name in wanted if name in GPU_PROVIDERS and name not in encoder.providers]
    if lost and encoder.device == "cpu" and providers is None:
        wanted = _cpu_providers()
        encoder = _load(files.encoder, wanted, used, threads, batch=1)
    if lost:
        bound = ", ".join(encoder.providers)
        notes += (f"{', '.join(lost)} did not bind (CUDA or its driver is missing or too old); {bound} runs",)
    if used == "bf16" and not encoder.bf16:
        used = files.encoder_metadata.precision
        notes += (f"bf16 was asked for, but {encoder.providers[0]} computes these files in {used} here",)
    in_decoder = files.decoder_metadata.spec.decoder_precision(used)
    decoder = _load(files.decoder, wanted, in_decoder, threads, begins_with=PICTURE_INPUTS, side_by_side=True)
    for note in notes:
        logger.warning("%s", note)
    return OnnxSam(files, encoder, decoder, used, notes)


def _load(
    path: Path,
    providers: Sequence[str],
    precision: str,
    threads: int | None,
    batch: int | None = None,
    begins_with: Sequence[str] = (),
    side_by_side: bool = False,
) -> Engine:
    if providers[0] == OPENVINO:
        return OpenVinoEngine(path, precision, threads, batch, begins_with, side_by_side)
    return OrtEngine(path, providers, threads)


def _choose_providers(providers: Sequence[str] | None, use_gpu: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Providers by preference, and notes on what was asked for and could not be had."""
    available = available_providers()
    if providers is not None:
        unknown = [name for name in providers if name not in available]
        if unknown or not providers:
            raise ValueError(
                f"execution provider {', '.join(unknown) or '(none)'} is not installed; "
                f"options are {', '.join(available)}"
            )
        return tuple(providers), ()
    if not use_gpu:
        return _cpu_providers(), ()
    # TensorRT only where it is asked for by name: it builds its engines for minutes.
    if "CUDAExecutionProvider" not in available:
        build = f"this onnxruntime ({RUNTIME_VERSION})"
        note = f"a GPU was asked for, but {build} has no CUDA provider; the model runs on the CPU"
        return _cpu_providers(), (note,)
    return ("CUDAExecutionProvider", CPU_PROVIDER), ()


def _cpu_providers() -> tuple[str, ...]:
    return (OPENVINO,) if OPENVINO in available_providers() else (CPU_PROVIDER,)


def _choose_precision(files: OnnxFiles, precision: str, fastest: bool, providers: Sequence[str]) -> str:
    """In which precision the files shall compute; whether an engine has bf16 shows when it is loaded."""
    own = files.encoder_metadata.precision
    if precision == "auto":
        faster = fastest and own == "fp32" and providers[0] == OPENVINO and openvino_has_bf16()
        return "bf16" if faster else own
    if precision == "bf16" and own == "fp32":
        return precision
    if precision != own:
        raise OnnxFileError(
            f"{files.encoder} is in {own}, and {precision} was asked for; "
            f"write it again with {command(files.encoder)} --precision {precision}"
        )
    return own
