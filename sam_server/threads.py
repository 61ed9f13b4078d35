"""One number of threads for every library that computes, so that they do not fight over the processors."""

import cv2
import threadpoolctl


def limit_threads(count: int) -> None:
    """Let the libraries that this process has loaded compute with `count` threads each: OpenCV, BLAS and OpenMP.

    PyTorch, ONNX Runtime and OpenVINO are told by their backends; OpenMP counts by thread of the caller, so for the
    threads of a server OMP_NUM_THREADS must be set before they start.

    Args:
        count: threads of one computation, such as `processors.cpu_quota()`.
    """
    cv2.setNumThreads(count)
    threadpoolctl.threadpool_limits(count)
