"""What the machine can do: `python -m benchmarks.machine SETTINGS` prints a `Machine` as JSON."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import Machine
from benchmarks.settings import BENCHMARK_VARIANTS, Settings
from sam_server.network.image_encoder_vit import ImageEncoderViT
from sam_server.network.sam import build_sam
from sam_server.network.variants import SamVariant
from sam_server.processors import cpu_quota

# Rows and columns of the products: those of a ViT-B's MLP at 1024, and square ones.
GEMM_SHAPES = ((4096, 768, 3072), (4096, 3072, 768), (2048, 2048, 2048))
GEMM_SECONDS = 0.7
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "segment-anything", "numpy")


def measure_machine(settings: Settings) -> Machine:
    """Names, sizes, and the peak of matrix products in each precision."""
    torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    precisions = [name for name in ("fp32", *settings.precisions) if name in DTYPES]
    return Machine(
        processor=processor_name(),
        processors=cpu_quota(),
        memory=psutil.virtual_memory().total,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        software=_software(),
        peak_flops={name: gemm_peak(DTYPES[name], device) for name in dict.fromkeys(precisions)},
        flops={name: count_flops(BENCHMARK_VARIANTS[name]) for name in settings.variants},
    )


def gemm_peak(dtype: torch.dtype, device: torch.device, seconds: float = GEMM_SECONDS) -> float:
    """Best FLOP/s of a matrix product (m, k) @ (k, n) over GEMM_SHAPES."""
    synchronise: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    best = 0.0
    for m, k, n in GEMM_SHAPES:
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        out = torch.empty(m, n, device=device, dtype=dtype)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            synchronise()
            started = time.perf_counter()
            torch.mm(a, b, out=out)
            synchronise()
            best = max(best, 2 * m * k * n / (time.perf_counter() - started))
    return best


def count_flops(variant: SamVariant) -> dict[str, float]:
    """FLOPs of the plain graph, by shapes alone: {"encode": of one picture, "prompt": of one point}."""
    with torch.device("meta"), torch.no_grad():
        sam = build_sam(variant).requires_grad_(False)  # the counter's hooks expect gradients otherwise
        if isinstance(sam.image_encoder, ImageEncoderViT):
            sam.image_encoder.set_attention("plain")
        with FlopCounterMode(display=False) as encode:
            image = sam.encode(torch.empty(1, 3, variant.image_size, variant.image_size))
        with FlopCounterMode(display=False) as prompt:
            sam.decode(image, torch.empty(1, 2, 2), torch.ones(1, 2, dtype=torch.int64), None, True)
    return {"encode": float(encode.get_total_flops()), "prompt": float(prompt.get_total_flops())}


def processor_name() -> str:
    """Name of the processor and the instructions that matter here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = [flag for flag in FLAGS if flag in named.get("flags", "").split()]
    name = named.get("model name", platform.machine())
    return f"{name} (family {named.get('cpu family')}, model {named.get('model')}; {', '.join(flags) or 'no AVX2'})"


def _software() -> str:
    parts = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*parts, f"{platform.system()} {os.uname().release}"])


def main() -> None:
    """Settings as JSON from the command line."""
    print(json.dumps(asdict(measure_machine(Settings.from_json(sys.argv[1])))))


if __name__ == "__main__":
    main()
