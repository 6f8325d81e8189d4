"""Opens regular files by paths where somebody may have put devices, which are not even opened."""

import os
import stat


class RegularFiles:
    """Opens regular files, and nothing else.

    What keeps a container from devices is its control group, which the process that serves files is not in; and for
    some (a watchdog, a tape) to be opened is enough. So it is first found out what a path leads to, without opening it.
    """

    def __init__(self) -> None:
        """Must be called before this process enters other mounts, where `/proc` is missing or another's."""
        self._own = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, path: bytes, flags: int, mode: int) -> int:
        """As `os.open`.

        Raises:
            OSError: it cannot be opened, or is no regular file.
        """
        if flags & os.O_CREAT and (flags & os.O_EXCL or not os.path.exists(path)):
            # What is new is no device. A link to nowhere is followed, unless it had to be new itself.
            return os.open(path if flags & os.O_EXCL else os.path.realpath(path), flags | os.O_EXCL, mode)
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise OSError(0, "not a regular file")
            return os.open(str(found), flags & ~os.O_CREAT, dir_fd=self._own)
        finally:
            os.close(found)
