"""Keep freed memory for the next computation: glibc gives large arrays back to the system at once, and the system
clears every page of them again when the next layer asks for an array of the same size."""

import ctypes

# Parameters of mallopt (glibc, malloc/malloc.h).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

# Arrays up to this size come from memory that is kept. The largest of a ViT-H in float32 at 1024 is 84 MB.
KEPT_ARRAY_BYTES = 256 << 20
# Freed memory that is kept at most; beyond it the system gets it back.
KEPT_BYTES = 512 << 20


def keep_freed_memory() -> bool:
    """Let this process keep up to KEPT_BYTES of what it frees; call it once, before the model is loaded.

    Returns:
        Whether it was possible: only glibc can be told.

    Source: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    # One arena: each of many would keep memory of its own.
    settings = ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, KEPT_ARRAY_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
