"""Frames over a Unix socket, some of which carry another socket.

A socket travels with the first byte of its frame, so that the order of sockets is that of their frames.
"""

import asyncio
import os
import socket
import struct
from collections import deque
from typing import Any

# Windows has neither, and no server runs there.
_receive: Any = getattr(socket, "recv_fds", None)
_send: Any = getattr(socket, "send_fds", None)

FRAME_HEAD = struct.Struct(">I?")
"""The size of a frame, and whether it carries a socket."""
READ_BYTES = 1 << 18
DESCRIPTORS_MAX = 16
"""Of one read. The kernel takes away those that do not fit."""
QUEUED_BYTES_MAX = 128 << 20
"""Of frames that the other side has not taken; with more it is taken for dead."""
QUEUED_FRAMES_MAX = 256
"""With more of them, no socket is taken: the other side is too slow for now."""


class Passing:
    """One end of a connected Unix socket."""

    def __init__(self, sock: socket.socket, frame_bytes_max: int) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._frame_bytes_max = frame_bytes_max
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._to_send: deque[tuple[memoryview, int | None]] = deque()
        self._queued_bytes = 0
        self._readable = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._is_over = False
        self._takes_none = False
        """Whether the other side has ended; its last frames may still be read."""
        self._is_writing = False
        self._loop.add_reader(sock.fileno(), self._read)

    async def receive(self) -> tuple[bytes, socket.socket | None]:
        """Return the next frame, with the socket that it carries, which is the caller's to close.

        Raises:
            EOFError: the other side has ended the connection.
            ConnectionError: it sent a frame that is too large, or without its socket.
        """
        while True:
            frame = self._take_frame()
            if frame is not None:
                return frame
            if self._is_over:
                raise EOFError
            self._readable.clear()
            await self._readable.wait()

    def send(self, frame: bytes, carried: socket.socket | None = None) -> bool:
        """Send a frame, as soon as the other side takes it; return False where the connection has ended.

        Args:
            carried: a socket that the other side gets too; it is duplicated, and stays open here.
        """
        if self._is_over or self._takes_none:
            return False
        if carried is not None and len(self._to_send) > QUEUED_FRAMES_MAX:
            return False
        if self._queued_bytes + len(frame) > QUEUED_BYTES_MAX:
            self.close()
            return False
        descriptor = None if carried is None else os.dup(carried.fileno())
        self._to_send.append((memoryview(FRAME_HEAD.pack(len(frame), carried is not None) + frame), descriptor))
        self._queued_bytes += len(frame)
        self._write()
        return not self._is_over and not self._takes_none

    async def drain(self) -> None:
        """Wait until the other side has taken everything, or the connection has ended."""
        await self._room.wait()

    def close(self) -> None:
        """End the connection. Sockets that were not taken are closed."""
        if self._is_over and self._socket.fileno() < 0:
            return
        self._end()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = _receive(self._socket, READ_BYTES, DESCRIPTORS_MAX)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # as all others of this process
        self._descriptors += descriptors
        if not data:
            self._end()
            return
        self._received += data
        self._readable.set()

    def _take_frame(self) -> tuple[bytes, socket.socket | None] | None:
        received = self._received
        if len(received) < FRAME_HEAD.size:
            return None
        size, has_socket = FRAME_HEAD.unpack_from(received)
        if size > self._frame_bytes_max:
            self.close()
            raise ConnectionError(f"a frame of {size} bytes; at most {self._frame_bytes_max} are taken")
        end = FRAME_HEAD.size + size
        if len(received) < end:
            return None
        frame = bytes(memoryview(received)[FRAME_HEAD.size : end])
        del received[:end]
        if not has_socket:
            return frame, None
        if not self._descriptors:  # the system had no room for it
            raise ConnectionError("a frame without its socket")
        return frame, socket.socket(fileno=self._descriptors.popleft())

    def _write(self) -> None:
        try:
            while self._to_send:
                data, descriptor = self._to_send[0]
                if descriptor is None:
                    sent = self._socket.send(data)
                else:
                    sent = _send(self._socket, [data], [descriptor])
                    os.close(descriptor)
                self._queued_bytes -= sent
                if sent == len(data):
                    self._to_send.popleft()
                else:
                    self._to_send[0] = data[sent:], None
        except BlockingIOError:
            self._await_room()
            return
        except (BrokenPipeError, ConnectionResetError):  # its last frames may not have been read
            self._takes_none = True
            self._forget_queued()
        except OSError:
            self._end()
            return
        self._room.set()
        self._stop_writing()

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _forget_queued(self) -> None:
        for _, descriptor in self._to_send:
            if descriptor is not None:
                os.close(descriptor)
        self._to_send.clear()

    def _await_room(self) -> None:
        self._room.clear()
        if not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self._socket.fileno(), self._write)

    def _end(self) -> None:
        self._is_over = True
        self._readable.set()
        self._room.set()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._stop_writing()
            self._socket.close()
        self._forget_queued()
