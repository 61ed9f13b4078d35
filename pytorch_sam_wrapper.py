"""PyTorchSam: the backend that runs SAM in PyTorch, on CUDA, MPS or the CPU."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sam_server import transforms
from sam_server.arrays import FloatArray
from sam_server.backend import (
    BackendInfo,
    Candidates,
    DeviceMemory,
    ImageEmbedding,
    LowResMasks,
    ModelSpec,
    PreparedImage,
)
from sam_server.checkpoints.load import CheckpointError, load_state_dict
from sam_server.network.attention import leave_uncompiled
from sam_server.network.fast_decoder import FastDecoder, ProjectedPicture
from sam_server.network.image_encoder_vit import ImageEncoderViT
from sam_server.network.linear import use_onednn
from sam_server.network.sam import Sam, load_sam
from sam_server.network.variants import VARIANTS, SamVariant
from sam_server.prompts import PromptBatch
from sam_server.recent import RecentPictures

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# First CUDA compute capability whose tensor cores take bf16 (NVIDIA Ampere).
BF16_CAPABILITY = (8, 0)

# Prompts in one pass of the decoder. On the CPU the activations of a few (4 MB each for ViT-B in float32) stay in
# cache; a GPU wants many at once.
CPU_CHUNK = 4
GPU_CHUNK = 64


class PyTorchSam:
    """SAM in PyTorch behind the `SamBackend` interface.

    Holds weights, and what was derived of the last few pictures; threads may share it.

    Args:
        sam: the model in float32 with its weights, on the CPU.
        device: where it shall run.
        precision: "fp32", "bf16" or "fp16": of the image encoder and, but for `ModelSpec.decoder_precision`, of the
            image side of the decoder; the few tokens of a prompt are always computed in float32.
        plain: compute operation by operation as the reference does, in place of the exact rewrites that are faster.
        compiled: let torch.compile make kernels for the image encoder; where that fails, `info.notes` says so.
        model_files: what the weights were loaded from, for `info`.
        sha256: of the checkpoint, for `info`.
        notes: what did not go as asked, for `info`.
    """

    def __init__(
        self,
        sam: Sam,
        device: torch.device,
        precision: str,
        *,
        plain: bool = False,
        compiled: bool = False,
        model_files: tuple[str, ...] = (),
        sha256: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.device = device
        self.dtype = PRECISIONS[precision]
        self._sam = sam.eval().requires_grad_(False).to(device)
        self._sam.image_encoder.to(self.dtype)
        self._spec = sam.variant.spec
        self._decoder_dtype = PRECISIONS[self._spec.decoder_precision(precision)]
        if not plain:
            use_onednn(self._sam)
        elif isinstance(self._sam.image_encoder, ImageEncoderViT):
            self._sam.image_encoder.set_attention("plain")
        self._encoder: Callable[[Tensor], Tensor] = self._sam.encode
        engine = f"torch {torch.__version__}"
        if compiled:
            failure = self._compile()
            engine, notes = (engine, (*notes, failure)) if failure else (f"{engine}, compiled", notes)
        self._info = BackendInfo(
            backend="pytorch",
            device=str(device),
            precision=precision,
            engine=engine,
            model_files=model_files,
            sha256=sha256,
            notes=notes,
        )
        self._chunk = CPU_CHUNK if device.type == "cpu" else GPU_CHUNK
        with torch.inference_mode():
            self._image_pe = self._sam.prompt_encoder.dense_pe()
            self._fast = None if plain else FastDecoder(self._sam.mask_decoder, self._image_pe, self._decoder_dtype)
            self._no_mask = self._sam.prompt_encoder.no_mask()
        self._projected: RecentPictures[ProjectedPicture] = RecentPictures()

    @property
    def spec(self) -> ModelSpec:
        """What the loaded model expects and gives."""
        return self._spec

    @property
    def info(self) -> BackendInfo:
        """What runs, and where."""
        return self._info

    @torch.inference_mode()
    def encode(self, images: Sequence[PreparedImage]) -> list[ImageEmbedding]:
        """See `SamBackend.encode`; the embeddings stay on the device, (1, C, E, E) in the decoder's dtype."""
        pictures = np.stack([transforms.normalise_and_pad(image, self._spec) for image in images])
        encoded = self._encoder(torch.from_numpy(pictures).to(self.device, self.dtype)).to(self._decoder_dtype)
        return [
            # A clone of its row, so that one picture does not keep its batch in memory.
            self._embedding(row[None].clone() if len(images) > 1 else row[None], image)
            for row, image in zip(encoded, images, strict=True)
        ]

    @torch.inference_mode()
    def decode(self, embedding: ImageEmbedding, prompts: PromptBatch, multimask_output: bool) -> LowResMasks:
        """See `SamBackend.decode`; prompts go through in chunks that stay in cache."""
        answers = [self._decode(embedding, chunk, multimask_output) for _, chunk in self._chunks(prompts)]
        return LowResMasks(
            np.concatenate([_to_numpy(masks) for masks, _ in answers]),
            np.concatenate([_to_numpy(iou) for _, iou in answers]),
        )

    @torch.inference_mode()
    def decode_above(self, embedding: ImageEmbedding, prompts: PromptBatch, min_iou: float) -> Candidates:
        """See `SamBackend.decode_above`; prompts without a mask above `min_iou` are never upscaled."""
        found = [self._decode_above(embedding, start, chunk, min_iou) for start, chunk in self._chunks(prompts)]
        return Candidates(
            np.concatenate([candidates.prompt for candidates in found]),
            np.concatenate([candidates.logits for candidates in found]),
            np.concatenate([candidates.iou for candidates in found]),
        )

    def embedding_array(self, embedding: ImageEmbedding) -> FloatArray:
        """See `SamBackend.embedding_array`."""
        return _to_numpy(embedding.data[0])

    @torch.inference_mode()
    def load_embedding(
        self, array: FloatArray, original_size: tuple[int, int], input_size: tuple[int, int]
    ) -> ImageEmbedding:
        """See `LoadsEmbeddings.load_embedding`."""
        data = torch.tensor(array[None]).to(self.device, self._decoder_dtype)
        return ImageEmbedding(data, original_size, input_size, data.numel() * data.element_size())

    def device_memory(self) -> DeviceMemory | None:
        """See `KnowsDeviceMemory.device_memory`: CUDA tells, other devices do not."""
        if self.device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self.device)
        used, reserved = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
        return DeviceMemory(used, reserved, free, total)

    @torch.inference_mode()
    def _compile(self) -> str | None:
        """Compile the image encoder for one picture, now and not at the first request; why it failed, or None."""
        leave_uncompiled()
        compiled = torch.compile(self._sam.image_encoder)
        size = self._spec.image_size
        try:
            compiled(torch.zeros(1, 3, size, size, device=self.device, dtype=self.dtype))
        except Exception as error:  # no C++ compiler, no Triton, an operator that it cannot do: it has many classes
            torch.compiler.reset()
            return f"torch.compile failed: {_first_line(error)}; the model runs uncompiled"
        self._encoder = compiled
        return None

    def _decode(self, embedding: ImageEmbedding, prompts: PromptBatch, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """Low-res logits (N, M, L, L) and IoU (N, M) of one chunk, on the device."""
        if self._fast is None:
            image, (sparse, dense) = embedding.data.float(), self._embed(prompts)
            masks, iou = self._sam.mask_decoder(image, self._image_pe, sparse, dense, multimask_output)
            return masks, iou
        chosen = self._sam.mask_decoder.chosen(multimask_output)
        tokens, cells = self._attend(self._fast, embedding, prompts)
        return self._fast.masks(tokens, cells, chosen), self._fast.iou(tokens, chosen)

    def _decode_above(self, embedding: ImageEmbedding, start: int, prompts: PromptBatch, min_iou: float) -> Candidates:
        """The good masks of one chunk, whose first prompt is number `start`."""
        if self._fast is None:
            masks, iou = self._decode(embedding, prompts, multimask_output=True)
            rows = torch.arange(len(prompts), device=self.device)
        else:
            chosen = self._sam.mask_decoder.chosen(multimask_output=True)
            tokens, cells = self._attend(self._fast, embedding, prompts)
            iou = self._fast.iou(tokens, chosen)
            rows = (iou > min_iou).any(dim=1).nonzero()[:, 0]
            masks, iou = self._fast.masks(tokens[rows], cells[rows], chosen), iou[rows]
        good = iou > min_iou  # (kept prompts, M)
        prompt = (start + rows)[:, None].expand_as(good)[good]
        return Candidates(prompt.cpu().numpy(), _to_numpy(masks[good]), _to_numpy(iou[good]))

    def _attend(self, fast: FastDecoder, embedding: ImageEmbedding, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """Tokens (N, T, C) and image (N, I, C) after the transformer."""
        sparse, dense = self._embed(prompts)
        if prompts.mask_input is not None:
            return fast.attend(embedding.data, sparse, dense)
        picture = self._projected.get(embedding, lambda: fast.project(embedding.data, self._no_mask))
        return fast.attend_projected(picture, sparse)

    def _embed(self, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """Sparse (N, P, C) and dense embeddings of one chunk, on the device."""
        sparse, dense = self._sam.prompt_encoder(
            torch.from_numpy(prompts.point_coords).to(self.device),
            torch.from_numpy(prompts.point_labels).to(self.device),
            None if prompts.mask_input is None else torch.from_numpy(prompts.mask_input).to(self.device),
        )
        return sparse, dense

    def _chunks(self, prompts: PromptBatch) -> Iterator[tuple[int, PromptBatch]]:
        """Parts of a batch, each with the number of its first prompt."""
        for start in range(0, len(prompts), self._chunk):
            yield start, prompts[start : start + self._chunk]

    def _embedding(self, data: Tensor, image: PreparedImage) -> ImageEmbedding:
        return ImageEmbedding(data, image.original_size, image.input_size, data.numel() * data.element_size())


def load_pytorch_sam(
    checkpoint: Path,
    variant: SamVariant | None = None,
    *,
    model_type: str | None = None,
    use_gpu: bool = True,
    precision: str = "auto",
    fastest: bool = False,
    plain: bool = False,
    compiled: bool = False,
    sha256: str | None = None,
    threads: int | None = None,
) -> PyTorchSam:
    """Load a checkpoint and choose where and how it runs.

    Args:
        checkpoint: .pth, .pt or .safetensors file with SAM's key names.
        variant: its dimensions; read from `config.json` beside the file, else from `model_type`, if None.
        model_type: row of VARIANTS that is used where there is neither `variant` nor config.json.
        use_gpu: take CUDA or MPS where it works.
        precision: "auto", "fp32", "bf16" or "fp16". auto is fp32 on the CPU and half precision on CUDA.
        fastest: let auto take the fastest precision of the CPU too.
        plain, compiled: see `PyTorchSam`.
        sha256: of the checkpoint, where the caller knows it; kept for `info`.
        threads: processor threads of one computation, for the whole process; torch's own choice if None.

    Raises:
        CheckpointError: the file cannot be read.
        WeightsError: its keys do not fit the variant.
        ValueError: precision or model type is unknown.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint}: there is no such file")
    chosen = variant or find_variant(checkpoint, model_type)
    device, notes = choose_device(use_gpu)

    def build(device: torch.device, notes: tuple[str, ...]) -> PyTorchSam:
        sam = load_sam(chosen, load_state_dict(checkpoint))
        used = choose_precision(precision, device, fastest)
        if device.type == "cpu" and used == "bf16" and not cpu_has_bf16():
            notes = (*notes, "bf16 was asked for, but this processor does not have it: fp32 is several times as fast")
        files = (str(checkpoint),)
        return PyTorchSam(
            sam, device, used, plain=plain, compiled=compiled, model_files=files, sha256=sha256, notes=notes
        )

    try:
        return build(device, notes)
    except RuntimeError as error:  # out of memory on the device, a driver that gives up
        if device.type == "cpu":
            raise
        failure = f"the model did not load on {device}: {_first_line(error)}; it runs on the CPU"
        return build(torch.device("cpu"), (*notes, failure))


def find_variant(checkpoint: Path, model_type: str | None) -> SamVariant:
    """The dimensions of a checkpoint: config.json beside it, else the row of `model_type`.

    Raises:
        ValueError: there is neither.
    """
    config = checkpoint.parent / "config.json"
    if config.is_file():
        return SamVariant.from_json(config.read_text())
    if model_type not in VARIANTS:
        raise ValueError(f"unknown model type {model_type!r}; known are {', '.join(VARIANTS)}")
    return VARIANTS[model_type]


def choose_device(use_gpu: bool) -> tuple[torch.device, tuple[str, ...]]:
    """The device to run on, and notes on what was asked for and could not be had."""
    cpu = torch.device("cpu")
    if not use_gpu:
        return cpu, ()
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    elif torch.backends.mps.is_available():
        device = torch.device("mps")
    else:
        built = "this torch is a CPU build" if torch.version.cuda is None else "torch found no CUDA device"
        return cpu, (f"a GPU was asked for, but {built} ({torch.__version__}); the model runs on the CPU",)
    try:
        # A device that is listed may still refuse to work: an old driver, a card without kernels for it.
        torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device)).sum().item()
    except RuntimeError as error:
        return cpu, (f"a GPU was asked for, but {device} failed: {_first_line(error)}; the model runs on the CPU",)
    return device, ()


def choose_precision(precision: str, device: torch.device, fastest: bool) -> str:
    """Turn "auto" into what suits the device, and check the rest.

    Raises:
        ValueError: unknown precision.
    """
    if precision == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.get_device_capability(device) >= BF16_CAPABILITY else "fp16"
        if device.type == "cpu" and fastest and cpu_has_bf16():
            return "bf16"
        return "fp32"
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; options are auto, {', '.join(PRECISIONS)}")
    return precision


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware (AVX512_BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _to_numpy(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.float().cpu().numpy()
    return array


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
