"""How many threads a forward pass may use: what the container, the user and OpenMP's variable allow."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def allowed_threads(asked: int | None = None) -> int:
    """Threads for one forward pass, at least 1.

    Engines count the machine's cores. In a container that may use two of sixty-four, sixty-four threads
    wait for each other most of the time.

    Args:
        asked: The user's number, which wins; None for the least of the cores this process may run on, the
            container's CPU limit (rounded up) and OMP_NUM_THREADS.
    """
    if asked is not None:
        return asked
    limits = [_cores(), _quota(), _omp_threads()]
    return max(1, min(limit for limit in limits if limit is not None))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _omp_threads() -> int | None:
    """OMP_NUM_THREADS; of a list, one number for each level of nesting, the first."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _quota(root: Path = _CGROUPS) -> int | None:
    """CPU limit of the container, in cores; None when there is none.

    Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max),
    https://docs.kernel.org/scheduler/sched-bwc.html (version 1).
    """
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return None
