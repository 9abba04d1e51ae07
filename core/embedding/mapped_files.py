"""Memory of files that are mapped into the process."""

import ctypes
import mmap
import os
import sys
from pathlib import Path


def release(file: Path) -> None:
    """Give back the memory that holds a mapped file's content; a page that is used again is read again.

    What a library mapped only to copy most of it otherwise counts as the process's memory until it ends.
    On Linux; elsewhere, and where the file is not mapped, nothing happens. Only mappings that cannot be
    written are touched: what was written into a private one would be lost (madvise(2), MADV_DONTNEED).
    """
    if sys.platform != "linux":
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    wanted = os.fsencode(os.path.realpath(file))
    for line in Path("/proc/self/maps").read_bytes().splitlines():
        addresses, access, rest = line.split(maxsplit=2)
        if rest.endswith(b" " + wanted) and b"w" not in access:
            start, end = (int(address, 16) for address in addresses.split(b"-"))
            madvise(start, end - start, mmap.MADV_DONTNEED)
