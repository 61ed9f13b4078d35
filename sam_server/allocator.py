"""Keep freed memory for the next computation, and let go of files that were read through a mapping.

glibc gives large arrays back to the system at once, and the system clears every page of them again when the next layer
asks for an array of the same size.
"""

import ctypes
from pathlib import Path

# Parameters of mallopt (glibc, malloc/malloc.h).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

# Advice of madvise (Linux, asm-generic/mman-common.h): the pages are not needed for now.
MADV_DONTNEED = 4
MAPPINGS = Path("/proc/self/maps")

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


def release_mapped(path: Path) -> int:
    """Take the pages of a file that this process has mapped and read out of its memory.

    An engine that has packed its weights for its kernels seldom looks at the file again, but keeps it mapped. Pages
    that are wanted again come back from the file.

    Returns:
        Bytes of address space that were released: 0 where nothing of the file is mapped, or the system is not Linux.

    Source: madvise(2).
    """
    try:
        name = str(path.resolve(strict=True))
        mappings = MAPPINGS.read_text().splitlines()
        madvise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError, TypeError):
        return 0
    released = 0
    for line in mappings:
        # address range, permissions, offset, device, inode, path, which may hold spaces
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[5] != name or "w" in fields[1]:  # what may have been changed is not in the file
            continue
        start, end = (int(number, 16) for number in fields[0].split("-"))
        if madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED) == 0:
            released += end - start
    return released
