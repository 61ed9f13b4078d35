"""One number of threads for every library that computes, so that they do not fight over the processors."""

import cv2
import threadpoolctl


def limit_threads(count: int) -> None:
    """Let OpenCV and OpenMP compute with `count` threads each, and BLAS with one.

    NumPy's products here, which bring low-res logits to full size, are too small to share. OpenBLAS's threads wait for
    the next one in a loop, and take a processor from the decoder of the next click for it.

    PyTorch, ONNX Runtime and OpenVINO are told by their backends; OpenMP counts by thread of the caller, so for the
    threads of a server OMP_NUM_THREADS must be set before they start.

    Args:
        count: threads of one computation, such as `processors.cpu_quota()`.
    """
    cv2.setNumThreads(count)
    threadpoolctl.threadpool_limits({"openmp": count, "blas": 1})
