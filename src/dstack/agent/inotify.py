"""The kernel's word that a file has grown, as a callback in the event loop."""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

IN_MODIFY = 0x2
IN_ONESHOT = 0x80000000
IN_IGNORED = 0x8000
EVENT = struct.Struct("iIII")
READ_BYTES = 1 << 16


class Inotify:
    """Watches files for the next write: who prints fast would otherwise wake this process thousands of times a second.

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
        """Call back once, after the next write to a file. Returns what `unwatch` wants.

        Raises:
            OSError: no such file, or no more watches.
        """
        watch = int(self._add(self._descriptor, os.fsencode(path), IN_MODIFY | IN_ONESHOT))
        if watch < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        # The same file gives the same number again.
        self._callbacks.setdefault(watch, []).append(callback)
        return watch

    def unwatch(self, watch: int, callback: Callable[[], None]) -> None:
        """Do not call back, where that has not happened yet."""
        callbacks = self._callbacks.get(watch, [])
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks and self._callbacks.pop(watch, None) is not None:
            self._remove(self._descriptor, watch)

    def close(self) -> None:
        """End all watches."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        data, at = os.read(self._descriptor, READ_BYTES), 0
        while at < len(data):
            watch, mask, _, name_bytes = EVENT.unpack_from(data, at)
            at += EVENT.size + name_bytes
            if not mask & IN_IGNORED:
                for callback in self._callbacks.pop(watch, ()):
                    callback()
