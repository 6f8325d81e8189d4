"""The kernel's word that a file has grown, as a callback in the event loop."""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

IN_MODIFY = 0x2
EVENT = struct.Struct("iIII")
READ_BYTES = 1 << 16


class Inotify:
    """Watches files for writes.

    Raises:
        OSError: this system has no inotify, or too many are in use.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._add, self._remove = libc.inotify_add_watch, libc.inotify_rm_watch
            self._descriptor = int(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        except AttributeError as error:
            raise OSError(str(error)) from error
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._callbacks: dict[int, list[Callable[[], None]]] = {}
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def watch(self, path: Path, callback: Callable[[], None]) -> int:
        """Call back after writes to a file. Returns what `unwatch` wants.

        Raises:
            OSError: no such file, or no more watches.
        """
        watch = int(self._add(self._descriptor, os.fsencode(path), IN_MODIFY))
        if watch < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        # The same file gives the same number again.
        self._callbacks.setdefault(watch, []).append(callback)
        return watch

    def unwatch(self, watch: int, callback: Callable[[], None]) -> None:
        """Call back no more."""
        self._callbacks[watch].remove(callback)
        if not self._callbacks[watch]:
            del self._callbacks[watch]
            self._remove(self._descriptor, watch)

    def close(self) -> None:
        """End all watches."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        data, at = os.read(self._descriptor, READ_BYTES), 0
        while at < len(data):
            watch, _, _, name_bytes = EVENT.unpack_from(data, at)
            at += EVENT.size + name_bytes
            for callback in self._callbacks.get(watch, ()):
                callback()
