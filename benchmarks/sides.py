"""The sides of the comparison, each behind the same few functions. Runs in a process of its own per side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from benchmarks.pictures import grid_points
from benchmarks.settings import BENCHMARK_VARIANTS, ONNX, ONNXRUNTIME, PYTORCH, REFERENCE, Settings, Side
from sam_server.arrays import BoolArray, ByteArray, CoordArray, FloatArray


@dataclass(frozen=True)
class Click:
    """A point and what came of it: (3, H, W) bool masks and (3,) predicted IoU."""

    masks: BoolArray
    iou: FloatArray


class Runner(Protocol):
    """What every side can do; the image embedding is the side's own."""

    engine: str

    def encode(self, pictures: Sequence[ByteArray]) -> Any:
        """Encode (H, W, 3) uint8 pictures; what `embedding_array` and the others take."""
        ...

    def embedding_array(self, encoded: Any) -> FloatArray:
        """(B, C, E, E) float32."""
        ...

    def click(self, encoded: Any, point: CoordArray) -> Click:
        """Three full-size masks of a foreground point (2,)."""
        ...

    def points(self, encoded: Any, points: CoordArray) -> FloatArray:
        """Low-res logits (N, 3, L, L) of N foreground points (N, 2), in one call of the decoder."""
        ...

    def automatic(self, picture: ByteArray) -> list[dict[str, Any]]:
        """Every mask of a picture, as records with COCO run-length encodings."""
        ...

    def synchronise(self) -> None:
        """Wait until the device has done what was asked of it."""
        ...


class ProjectRunner:
    """This project, with either backend."""

    def __init__(self, settings: Settings, side: Side, painted: bool) -> None:
        from sam_server.allocator import keep_freed_memory
        from sam_server.predictor import Predictor
        from sam_server.threads import limit_threads

        keep_freed_memory()  # as app.py does
        self._settings = settings
        self._side = side
        self._backend = (
            _load_pytorch(settings, side, painted) if side.backend == PYTORCH else _load_onnx(settings, side, painted)
        )
        limit_threads(settings.threads)
        self._predictor = Predictor(self._backend)
        self.engine = self._backend.info.engine
        if settings.device == "cuda" and not self._backend.info.device.startswith("cuda"):
            raise RuntimeError(f"{side.label} does not run on CUDA: {'; '.join(self._backend.info.notes)}")

    def encode(self, pictures: Sequence[ByteArray]) -> Any:
        return self._predictor.encode_batch(pictures)

    def embedding_array(self, encoded: Any) -> FloatArray:
        return np.concatenate([_array(embedding.data) for embedding in encoded])

    def click(self, encoded: Any, point: CoordArray) -> Click:
        from sam_server.prompts import make_prompt

        prediction = self._predictor.predict(encoded[0], [make_prompt([point], [1])])[0]
        return Click(prediction.masks, prediction.iou)

    def points(self, encoded: Any, points: CoordArray) -> FloatArray:
        from sam_server import transforms
        from sam_server.prompts import make_prompt

        embedding = encoded[0]
        prompts = [make_prompt([point], [1]) for point in points]
        batch = transforms.batch_prompts(prompts, embedding.original_size, embedding.input_size)
        return self._backend.decode(embedding, batch, multimask_output=True).logits

    def automatic(self, picture: ByteArray) -> list[dict[str, Any]]:
        from sam_server.automatic.generate import generate
        from sam_server.automatic.output import to_dicts
        from sam_server.automatic.parameters import PERFORMANCE_DEFAULTS, AutomaticParameters

        settings = self._settings
        values = {"stability_score_thresh": settings.stability_score_thresh}
        if self._side.performance_mode:  # where it asks for less than the benchmark, it keeps that
            least = min(settings.pred_iou_thresh, PERFORMANCE_DEFAULTS["pred_iou_thresh"])
            parameters = AutomaticParameters.from_values({**values, "pred_iou_thresh": least}, performance_mode=True)
        else:
            values |= {"points_per_side": settings.points_per_side, "pred_iou_thresh": settings.pred_iou_thresh}
            parameters = AutomaticParameters.from_values(values)
        return to_dicts(generate(self._backend, picture, parameters), "coco_rle")

    def synchronise(self) -> None:
        if self._backend.info.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()


class ReferenceRunner:
    """segment-anything 1.0, as its own classes are used."""

    def __init__(self, settings: Settings, side: Side, painted: bool) -> None:
        import torch

        from sam_server.checkpoints.load import load_state_dict
        from tests.reference.reference_models import reference_sam

        torch.set_num_threads(settings.threads)
        variant = BENCHMARK_VARIANTS[side.variant]
        self._settings = settings
        self._torch = torch
        self._sam = reference_sam(variant, load_state_dict(settings.weights(side.variant, painted)))
        self._sam.to(settings.device)
        self._cuda = settings.device == "cuda"
        self.engine = f"torch {torch.__version__}"

    def encode(self, pictures: Sequence[ByteArray]) -> Any:
        from segment_anything import SamPredictor

        predictor = SamPredictor(self._sam)
        (picture,) = pictures
        predictor.set_image(picture)
        return predictor

    def embedding_array(self, encoded: Any) -> FloatArray:
        return _array(encoded.get_image_embedding())

    def click(self, encoded: Any, point: CoordArray) -> Click:
        masks, iou, _ = encoded.predict(point[None], np.ones(1, np.int64), multimask_output=True)
        return Click(masks, iou)

    def points(self, encoded: Any, points: CoordArray) -> FloatArray:
        torch = self._torch
        device = self._sam.device
        coords = torch.as_tensor(encoded.transform.apply_coords(points, encoded.original_size)[:, None])
        labels = torch.ones(len(points), 1, dtype=torch.int, device=device)
        with torch.no_grad():
            prompt = (coords.to(device, torch.float32), labels)
            sparse, dense = self._sam.prompt_encoder(points=prompt, boxes=None, masks=None)
            logits, _ = self._sam.mask_decoder(
                image_embeddings=encoded.features,
                image_pe=self._sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
        return _array(logits)

    def automatic(self, picture: ByteArray) -> list[dict[str, Any]]:
        from segment_anything import SamAutomaticMaskGenerator

        generator = SamAutomaticMaskGenerator(
            self._sam,
            points_per_side=self._settings.points_per_side,
            pred_iou_thresh=self._settings.pred_iou_thresh,
            stability_score_thresh=self._settings.stability_score_thresh,
            output_mode="coco_rle",
        )
        records: list[dict[str, Any]] = generator.generate(picture)
        return records

    def synchronise(self) -> None:
        if self._cuda:
            self._torch.cuda.synchronize()


def make_runner(settings: Settings, side: Side, painted: bool) -> Runner:
    """Load a side with the random or the painted weights of its variant."""
    return (ReferenceRunner if side.backend == REFERENCE else ProjectRunner)(settings, side, painted)


def click_points(settings: Settings) -> CoordArray:
    """Where the picture is clicked: (64, 2) x, y."""
    return grid_points(*settings.picture_size, 64)


def _load_pytorch(settings: Settings, side: Side, painted: bool) -> Any:
    from pytorch_sam_wrapper import load_pytorch_sam

    checkpoint = settings.weights(side.variant, painted)
    use_gpu = settings.device == "cuda"
    return load_pytorch_sam(checkpoint, use_gpu=use_gpu, precision=side.precision, threads=settings.threads)


def _load_onnx(settings: Settings, side: Side, painted: bool) -> Any:
    from onnx_sam_wrapper import load_onnx_sam

    backend = load_onnx_sam(
        onnx_dir(settings, side.variant, painted),
        side.variant,
        providers=["CPUExecutionProvider"] if side.backend == ONNXRUNTIME else None,
        use_gpu=settings.device == "cuda",
        precision=side.precision,
        threads=settings.threads,
    )
    if backend.info.precision != side.precision:  # a row shall not say bf16 of what was measured in fp32
        raise ValueError("; ".join(backend.info.notes))
    return backend


def onnx_dir(settings: Settings, variant: str, painted: bool) -> Any:
    """Where the exported files of a variant's weights are."""
    return settings.weights(variant, painted).parent / ONNX


def _array(tensor: Any) -> FloatArray:
    """A tensor of any kind as float32."""
    if hasattr(tensor, "numpy") and hasattr(tensor, "detach"):
        tensor = tensor.detach().float().cpu()
    array: FloatArray = np.asarray(tensor.numpy() if callable(getattr(tensor, "numpy", None)) else tensor, np.float32)
    return array
