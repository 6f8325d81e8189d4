"""A server of SFTP, version 3, as OpenSSH speaks it (draft-ietf-secsh-filexfer-02, and OpenSSH's `PROTOCOL`).

It is one process for one client, reads and writes plain descriptors, and blocks: it runs where the files are, inside
the container whose mounts it has entered, as the container's user. So every path means what it means there.
"""

import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from dstack.agent.sshd.opening import RegularFiles

VERSION = 3
PACKET_BYTES_MAX = 256 << 10
DATA_BYTES_MAX = 255 << 10
HANDLES_MAX = 1000
NAMES_AT_ONCE = 100

_OK, _EOF, _NO_SUCH_FILE, _DENIED, _FAILURE, _BAD_MESSAGE, _UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8
_CODES = {FileNotFoundError: _NO_SUCH_FILE, NotADirectoryError: _NO_SUCH_FILE, PermissionError: _DENIED}

_SIZE, _OWNER, _MODE, _TIMES = 1, 2, 4, 8
_EXTENDED_ATTRIBUTES = 0x80000000

_INIT, _STATUS, _HANDLE, _DATA, _NAME, _ATTRIBUTES, _EXTENDED_REPLY = 1, 101, 102, 103, 104, 105, 201
_EXTENDED = 200
_EXTENSIONS = {
    b"posix-rename@openssh.com": b"1",
    b"statvfs@openssh.com": b"2",
    b"fstatvfs@openssh.com": b"2",
    b"hardlink@openssh.com": b"1",
    b"fsync@openssh.com": b"1",
    b"lsetstat@openssh.com": b"1",
    b"limits@openssh.com": b"1",
}
_READ, _WRITE, _APPEND, _CREATE, _TRUNCATE, _EXCLUSIVE = 1, 2, 4, 8, 16, 32


class _BadMessage(Exception):
    """A packet that breaks the protocol."""


@dataclass(slots=True)
class _Packet:
    """What is left to read of a packet."""

    rest: memoryview

    def number(self) -> int:
        return int(self._take("I", 4))

    def long(self) -> int:
        return int(self._take("Q", 8))

    def text(self) -> bytes:
        size = self.number()
        if size > len(self.rest):
            raise _BadMessage
        taken, self.rest = self.rest[:size], self.rest[size:]
        return bytes(taken)

    def path(self) -> bytes:
        path = self.text()
        if b"\0" in path:
            raise _BadMessage
        return path or b"."

    def _take(self, form: str, size: int) -> int:
        if size > len(self.rest):
            raise _BadMessage
        (value,) = struct.unpack_from(f">{form}", self.rest)
        self.rest = self.rest[size:]
        return int(value)


@dataclass(slots=True)
class _Attributes:
    """What a client wants a file to be; None for what it does not speak of."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None

    @classmethod
    def read(cls, packet: _Packet) -> "_Attributes":
        flags = packet.number()
        wanted = cls()
        if flags & _SIZE:
            wanted.size = packet.long()
        if flags & _OWNER:
            wanted.owner = packet.number(), packet.number()
        if flags & _MODE:
            wanted.mode = stat.S_IMODE(packet.number())
        if flags & _TIMES:
            wanted.times = packet.number(), packet.number()
        if flags & _EXTENDED_ATTRIBUTES:
            for _ in range(packet.number()):
                packet.text(), packet.text()
        return wanted

    def apply(self, file: bytes | int, *, follow: bool = True) -> None:
        if self.size is not None:
            os.truncate(file, self.size)
        if self.mode is not None and follow:
            os.chmod(file, self.mode)
        follow = follow or isinstance(file, int)
        if self.times is not None:
            os.utime(file, self.times, follow_symlinks=follow)
        if self.owner is not None:
            os.chown(file, *self.owner, follow_symlinks=follow)


@dataclass(slots=True)
class _Folder:
    """A folder that is being listed."""

    path: bytes
    entries: Iterator[bytes]


@dataclass(slots=True)
class SftpServer:
    """Serves one client.

    Args:
        source: the descriptor to read packets from.
        target: the descriptor to write answers to.
        files: opens them.
    """

    source: int
    target: int
    files: RegularFiles
    _handles: dict[bytes, int | _Folder] = field(default_factory=dict)
    _count: int = 0

    def serve(self) -> None:
        """Answer until the client is gone."""
        first = self._read_packet()
        if first is None or first[0] != _INIT:
            return
        extensions = b"".join(_text(name) + _text(version) for name, version in _EXTENSIONS.items())
        self._write(struct.pack(">BI", 2, VERSION) + extensions)
        while (packet := self._read_packet()) is not None:
            self._answer(packet)

    def _read_packet(self) -> memoryview | None:
        size = self._read_exactly(4)
        if size is None:
            return None
        (count,) = struct.unpack(">I", size)
        if not 0 < count <= PACKET_BYTES_MAX:
            return None
        return self._read_exactly(count)

    def _read_exactly(self, count: int) -> memoryview | None:
        buffer = bytearray(count)
        view = memoryview(buffer)
        got = 0
        while got < count:
            received = os.readv(self.source, [view[got:]])
            if received == 0:
                return None
            got += received
        return view

    def _write(self, body: bytes) -> None:
        left = memoryview(struct.pack(">I", len(body)) + body)
        while left:
            left = left[os.write(self.target, left) :]

    def _answer(self, whole: memoryview) -> None:
        packet = _Packet(whole[1:])
        try:
            id = packet.number()
        except _BadMessage:
            return
        try:
            handler = _HANDLERS.get(whole[0])
            answer = _status(_UNSUPPORTED, "not supported") if handler is None else handler(self, packet)
        except _BadMessage:
            answer = _status(_BAD_MESSAGE, "bad message")
        except EOFError:
            answer = _status(_EOF, "end of file")
        except OSError as error:
            code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), _FAILURE)
            answer = _status(code, error.strerror or "failure")
        except (OverflowError, ValueError):
            answer = _status(_FAILURE, "invalid argument")
        self._write(answer[:1] + struct.pack(">I", id) + answer[1:])

    def _keep(self, what: int | _Folder) -> bytes:
        self._count += 1
        name = str(self._count).encode()
        self._handles[name] = what
        return struct.pack(">B", _HANDLE) + _text(name)

    def _file(self, packet: _Packet) -> int:
        found = self._handles.get(packet.text())
        if not isinstance(found, int):
            raise OSError(0, "no such handle")
        return found

    def _open(self, packet: _Packet) -> bytes:
        path, wish, wanted = packet.path(), packet.number(), _Attributes.read(packet)
        if len(self._handles) >= HANDLES_MAX:
            raise OSError(0, "too many open files")
        flags = {_READ: os.O_RDONLY, _WRITE: os.O_WRONLY, _READ | _WRITE: os.O_RDWR}.get(wish & 3)
        if flags is None:
            raise _BadMessage
        for bit, flag in (
            (_APPEND, os.O_APPEND),
            (_CREATE, os.O_CREAT),
            (_TRUNCATE, os.O_TRUNC),
            (_EXCLUSIVE, os.O_EXCL),
        ):
            flags |= flag if wish & bit else 0
        mode = 0o666 if wanted.mode is None else wanted.mode
        return self._keep(self.files.open(path, flags | os.O_CLOEXEC, mode))

    def _close(self, packet: _Packet) -> bytes:
        found = self._handles.pop(packet.text(), None)
        if found is None:
            raise OSError(0, "no such handle")
        if isinstance(found, int):
            os.close(found)
        return _status(_OK)

    def _read(self, packet: _Packet) -> bytes:
        file, offset, count = self._file(packet), packet.long(), packet.number()
        data = os.pread(file, min(count, DATA_BYTES_MAX), offset)
        if not data:
            raise EOFError
        return struct.pack(">B", _DATA) + _text(data)

    def _write_file(self, packet: _Packet) -> bytes:
        file, offset, left = self._file(packet), packet.long(), memoryview(packet.text())
        while left:
            count = os.pwrite(file, left, offset)
            offset, left = offset + count, left[count:]
        return _status(_OK)

    def _list(self, packet: _Packet) -> bytes:
        path = packet.path()
        if len(self._handles) >= HANDLES_MAX:
            raise OSError(0, "too many open files")
        names = [entry.name for entry in os.scandir(path)]
        return self._keep(_Folder(path, iter([b".", b"..", *names])))

    def _read_names(self, packet: _Packet) -> bytes:
        folder = self._handles.get(packet.text())
        if not isinstance(folder, _Folder):
            raise OSError(0, "no such handle")
        found = []
        for name in islice(folder.entries, NAMES_AT_ONCE):
            try:
                status = os.lstat(os.path.join(folder.path, name))
            except OSError:  # gone meanwhile
                continue
            found.append(_name(name, status))
        if not found:
            raise EOFError
        return struct.pack(">BI", _NAME, len(found)) + b"".join(found)

    def _real_path(self, packet: _Packet) -> bytes:
        path = os.path.realpath(packet.path())
        return struct.pack(">BI", _NAME, 1) + _text(path) + _text(path) + struct.pack(">I", 0)

    def _rename(self, packet: _Packet) -> bytes:
        old, new = packet.path(), packet.path()
        if os.path.lexists(new):
            raise OSError(0, "file exists")
        os.rename(old, new)
        return _status(_OK)

    def _make_folder(self, packet: _Packet) -> bytes:
        path, wanted = packet.path(), _Attributes.read(packet)
        os.mkdir(path, 0o777 if wanted.mode is None else wanted.mode)
        return _status(_OK)

    def _make_link(self, packet: _Packet) -> bytes:
        target, path = packet.path(), packet.path()  # OpenSSH has them in this order, and all others since
        os.symlink(target, path)
        return _status(_OK)

    def _read_link(self, packet: _Packet) -> bytes:
        target = os.readlink(packet.path())
        return struct.pack(">BI", _NAME, 1) + _text(target) + _text(target) + struct.pack(">I", 0)

    def _extended(self, packet: _Packet) -> bytes:
        match packet.text():
            case b"posix-rename@openssh.com":
                os.rename(packet.path(), packet.path())
            case b"hardlink@openssh.com":
                os.link(packet.path(), packet.path(), follow_symlinks=False)
            case b"fsync@openssh.com":
                os.fsync(self._file(packet))
            case b"lsetstat@openssh.com":
                path = packet.path()
                _Attributes.read(packet).apply(path, follow=False)
            case b"statvfs@openssh.com":
                return _space(os.statvfs(packet.path()))
            case b"fstatvfs@openssh.com":
                return _space(os.fstatvfs(self._file(packet)))
            case b"limits@openssh.com":
                limits = PACKET_BYTES_MAX, DATA_BYTES_MAX, DATA_BYTES_MAX, HANDLES_MAX
                return struct.pack(">BQQQQ", _EXTENDED_REPLY, *limits)
            case _:
                return _status(_UNSUPPORTED, "not supported")
        return _status(_OK)


def _set_attributes(server: SftpServer, packet: _Packet) -> bytes:
    path = packet.path()
    _Attributes.read(packet).apply(path)
    return _status(_OK)


def _set_attributes_of_open(server: SftpServer, packet: _Packet) -> bytes:
    file = server._file(packet)
    _Attributes.read(packet).apply(file)
    return _status(_OK)


def _remove(server: SftpServer, packet: _Packet) -> bytes:
    os.unlink(packet.path())
    return _status(_OK)


def _remove_folder(server: SftpServer, packet: _Packet) -> bytes:
    os.rmdir(packet.path())
    return _status(_OK)


def _attributes_of(status: os.stat_result) -> bytes:
    return struct.pack(
        ">IQIIIII",
        _SIZE | _OWNER | _MODE | _TIMES,
        status.st_size,
        status.st_uid,
        status.st_gid,
        status.st_mode,
        int(status.st_atime) & 0xFFFFFFFF,
        int(status.st_mtime) & 0xFFFFFFFF,
    )


def _attributes(status: os.stat_result) -> bytes:
    return struct.pack(">B", _ATTRIBUTES) + _attributes_of(status)


def _name(name: bytes, status: os.stat_result) -> bytes:
    """With the line that `ls -l` would show."""
    owner = f"{status.st_nlink:>4} {status.st_uid:<8} {status.st_gid:<8}"
    line = f"{stat.filemode(status.st_mode)} {owner} {status.st_size:>12} "
    return _text(name) + _text(line.encode() + name) + _attributes_of(status)


def _space(found: os.statvfs_result) -> bytes:
    numbers = (found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail)
    files = (found.f_files, found.f_ffree, found.f_favail, found.f_fsid, found.f_flag & 3, found.f_namemax)
    return struct.pack(">B11Q", _EXTENDED_REPLY, *(number & 0xFFFFFFFFFFFFFFFF for number in (*numbers, *files)))


def _status(code: int, message: str = "") -> bytes:
    return struct.pack(">BI", _STATUS, code) + _text(message.encode()) + _text(b"en")


def _text(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


_HANDLERS: dict[int, Callable[[SftpServer, _Packet], bytes]] = {
    3: SftpServer._open,
    4: SftpServer._close,
    5: SftpServer._read,
    6: SftpServer._write_file,
    7: lambda server, packet: _attributes(os.lstat(packet.path())),
    8: lambda server, packet: _attributes(os.fstat(server._file(packet))),
    9: _set_attributes,
    10: _set_attributes_of_open,
    11: SftpServer._list,
    12: SftpServer._read_names,
    13: _remove,
    14: SftpServer._make_folder,
    15: _remove_folder,
    16: SftpServer._real_path,
    17: lambda server, packet: _attributes(os.stat(packet.path())),
    18: SftpServer._rename,
    19: SftpServer._read_link,
    20: SftpServer._make_link,
    _EXTENDED: SftpServer._extended,
}
