"""How many processors this process may use: its container may have fewer than its machine."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def cpu_quota(root: Path = CGROUP_ROOT, own: Path = OWN_CGROUP) -> int:
    """Processors that this process may use: its affinity, or the quota of its control groups if that is less.

    Args:
        root: where the control groups are mounted.
        own: file that names the control group of this process.

    Returns:
        At least 1; part of a processor counts as a whole one.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max), scheduler/sched-bwc.rst (cpu.cfs_quota_us).
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(-(-quota // period) for quota, period in _quotas(root, own))]))


def _quotas(root: Path, own: Path) -> Iterator[tuple[int, int]]:
    """Quota and period, in microseconds, of every control group that holds this process and has one."""
    group = root / _own_group(own)
    groups = [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
    texts = [_read(group / "cpu.max") for group in groups]
    texts.append(f"{_read(root / 'cpu' / 'cpu.cfs_quota_us')} {_read(root / 'cpu' / 'cpu.cfs_period_us')}")
    for text in texts:
        words = text.split()
        if len(words) == 2 and all(word.isdigit() for word in words):  # "max" and -1 are no quota
            yield int(words[0]), int(words[1])


def _own_group(own: Path) -> str:
    for line in _read(own).splitlines():
        if line.startswith("0::/"):  # version 2
            return line.removeprefix("0::/")
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
