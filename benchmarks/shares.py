"""Where the time goes, with PyTorch: `python -m benchmarks.shares SETTINGS VARIANT PRECISION` prints it as JSON.

The layers of the image encoder, for several pictures at once; and the components of one picture with one click.
"""

import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pictures import draw_picture
from benchmarks.results import Share
from benchmarks.settings import Settings
from benchmarks.sides import click_points
from pytorch_sam_wrapper import PRECISIONS, find_variant
from sam_server import transforms
from sam_server.checkpoints.load import load_state_dict
from sam_server.network.fast_decoder import FastDecoder
from sam_server.network.image_encoder_conv_vit import ConvBlock, ConvVitBlock
from sam_server.network.image_encoder_vit import Block, PatchEmbed, RelativeAttention
from sam_server.network.layers import MlpBlock
from sam_server.network.sam import Sam, load_sam
from sam_server.prompts import make_prompt
from sam_server.threads import limit_threads

# Layers that are timed, by class, and how the plots name them; a layer's time is without that of the layers in it.
LAYERS: dict[type[nn.Module], str] = {
    RelativeAttention: "attention",
    MlpBlock: "MLP",
    PatchEmbed: "patches",
    ConvBlock: "convolutions",
    Block: "norms and windows",
    ConvVitBlock: "attention and norms",
}
REPEATS = 2
# Calls of what takes milliseconds only.
SMALL_REPEATS = 9


class LayerClock:
    """Times the layers of an image encoder by hooks; on a GPU it waits before and after each."""

    def __init__(self, encoder: nn.Module, synchronise: Callable[[], None]) -> None:
        self.seconds: dict[tuple[str, int | None], float] = defaultdict(float)
        self._synchronise = synchronise
        # Of every layer that is running: when it started, and the seconds of the timed layers in it.
        self._running: list[list[float]] = []
        self._watch(encoder, "rest", None)
        self._watch(encoder.get_submodule("neck"), "neck", None)
        for module in encoder.modules():
            if not isinstance(module, (Block, ConvVitBlock)) and type(module) in LAYERS:
                self._watch(module, LAYERS[type(module)], _block_of(encoder, module))
        for index, block in enumerate(encoder.get_submodule("blocks").children()):
            self._watch(block, LAYERS[type(block)], index)

    def _watch(self, module: nn.Module, kind: str, index: int | None) -> None:
        def start(*_: Any) -> None:
            self._synchronise()
            self._running.append([time.perf_counter(), 0.0])

        def stop(*_: Any) -> None:
            self._synchronise()
            started, inside = self._running.pop()
            seconds = time.perf_counter() - started
            self.seconds[kind, index] += seconds - inside
            if self._running:
                self._running[-1][1] += seconds

        module.register_forward_pre_hook(start)
        module.register_forward_hook(stop)


def _block_of(encoder: nn.Module, module: nn.Module) -> int | None:
    blocks = encoder.get_submodule("blocks").children()
    return next((index for index, block in enumerate(blocks) if any(module is part for part in block.modules())), None)


def measure_layers(settings: Settings, sam: Sam, dtype: torch.dtype) -> list[Share]:
    """Seconds a picture of every layer of the image encoder, for each number of pictures in one call."""
    synchronise = _synchronise(settings)
    clock = LayerClock(sam.image_encoder, synchronise)
    picture = _prepared(settings, sam).to(settings.device, dtype)
    shares = []
    for batch in settings.batches:
        pictures = picture.expand(batch, -1, -1, -1).contiguous()
        sam.encode(pictures)
        clock.seconds.clear()
        for _ in range(REPEATS):
            sam.encode(pictures)
        for (kind, index), seconds in sorted(clock.seconds.items(), key=lambda item: item[0][1] or -1):
            shares.append(Share(str(batch), kind, seconds / REPEATS / batch, index))
    return shares


def measure_components(settings: Settings, sam: Sam, dtype: torch.dtype, precision: str) -> list[Share]:
    """Seconds of each component, for one picture and one click with three masks."""
    synchronise = _synchronise(settings)
    pixels = draw_picture(*settings.picture_size)
    spec = sam.variant.spec
    prepared = transforms.prepare(pixels, spec.image_size)
    sizes = (prepared.original_size, prepared.input_size)
    batch = transforms.batch_prompts([make_prompt([click_points(settings)[0]], [1])], *sizes)
    coords = torch.from_numpy(batch.point_coords).to(settings.device)
    labels = torch.from_numpy(batch.point_labels).to(settings.device)
    picture = _prepared(settings, sam).to(settings.device, dtype)
    decoder = FastDecoder(sam.mask_decoder, sam.prompt_encoder.dense_pe(), dtype)
    chosen = sam.mask_decoder.chosen(multimask_output=True)
    image = sam.encode(picture)
    sparse, dense = sam.prompt_encoder(coords, labels)
    tokens, cells = decoder.attend(image, sparse, dense)
    logits = decoder.masks(tokens, cells, chosen).float().cpu().numpy()

    def to_full_size() -> None:
        for mask in logits[0]:
            transforms.to_mask(mask, spec, prepared.input_size, prepared.original_size)

    steps: dict[str, tuple[Callable[[], Any], int]] = {
        "resize and normalise": (
            lambda: transforms.normalise_and_pad(transforms.prepare(pixels, spec.image_size), spec),
            SMALL_REPEATS,
        ),
        "image encoder": (lambda: sam.encode(picture), REPEATS),
        "prompt encoder": (lambda: sam.prompt_encoder(coords, labels), SMALL_REPEATS),
        "decoder: transformer": (lambda: decoder.attend(image, sparse, dense), SMALL_REPEATS),
        "decoder: upscaling, masks": (lambda: decoder.masks(tokens, cells, chosen), SMALL_REPEATS),
        "decoder: IoU": (lambda: decoder.iou(tokens, chosen), SMALL_REPEATS),
        "masks to full size": (to_full_size, SMALL_REPEATS),
    }
    return [Share(precision, name, _median(step, count, synchronise)) for name, (step, count) in steps.items()]


def _median(step: Callable[[], Any], count: int, synchronise: Callable[[], None]) -> float:
    """Median seconds of `count` calls after one that warms up."""
    step()
    seconds = []
    for _ in range(count):
        synchronise()
        started = time.perf_counter()
        step()
        synchronise()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _prepared(settings: Settings, sam: Sam) -> Tensor:
    """The picture as the image encoder takes it, (1, 3, S, S) float32."""
    spec = sam.variant.spec
    prepared = transforms.prepare(draw_picture(*settings.picture_size), spec.image_size)
    return torch.from_numpy(np.ascontiguousarray(transforms.normalise_and_pad(prepared, spec)))[None]


def _synchronise(settings: Settings) -> Callable[[], None]:
    return torch.cuda.synchronize if settings.device == "cuda" else (lambda: None)


@torch.inference_mode()
def main() -> None:
    """Settings as JSON, variant and precision from the command line."""
    settings, variant, precision = Settings.from_json(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(settings.threads)
    limit_threads(settings.threads)
    dtype = PRECISIONS[precision]
    checkpoint = settings.weights(variant, painted=False)
    sam = load_sam(find_variant(checkpoint, None), load_state_dict(checkpoint)).to(settings.device)
    sam.image_encoder.to(dtype)
    found = {
        "components": [asdict(share) for share in measure_components(settings, sam, dtype, precision)],
        "layers": [asdict(share) for share in measure_layers(settings, sam, dtype)],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
