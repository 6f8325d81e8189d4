"""How full this host's disks are."""

import shutil
from dataclasses import dataclass

FREE_SHARE_MIN = 0.1
FREE_BYTES_MIN = 10 * 10**9
SMALL_SHARE_MAX = 0.25
"""On a small disk, `FREE_BYTES_MIN` may be most of it: more than this share need not be free."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk, as its file system counts."""

    whole_bytes: int
    free_bytes: int

    @property
    def is_nearly_full(self) -> bool:
        """Whether room should be made before something large is put there.

        Examples:
            >>> [Disk(10**12, free * 10**9).is_nearly_full for free in (90, 110)]
            [True, False]
            >>> [Disk(20 * 10**9, free * 10**9).is_nearly_full for free in (4, 6)]
            [True, False]
        """
        enough = max(FREE_SHARE_MIN * self.whole_bytes, min(FREE_BYTES_MIN, SMALL_SHARE_MAX * self.whole_bytes))
        return self.free_bytes < enough


def disk_of(folder: str) -> Disk | None:
    """The disk of a folder; None where this host has no such folder: an engine may live in a machine of its own."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return Disk(usage.total, usage.free)
