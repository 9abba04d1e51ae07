"""What of a file lies in this process's memory, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def resident(file: Path) -> int:
    """KiB of the file in this process's memory."""
    kib, counts = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, *rest = line.split(maxsplit=5)
        if "-" in name and not name.endswith(":"):
            counts = line.endswith(str(file))
        elif name == "Rss:" and counts:
            kib += int(rest[0])
    return kib
