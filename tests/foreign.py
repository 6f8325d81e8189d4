"""Macs and Windows, as far as Linux can play them: `python foreign.py SYSTEM PROGRAM ARGS…`.

The program runs without what the other system lacks, and with what it has besides. The standard library stays that of
Linux: it is loaded first.
"""

# ruff: noqa: F401
import asyncio
import ctypes
import ctypes.util
import enum
import errno
import fcntl
import functools
import getpass
import importlib.abc
import os
import runpy
import select
import selectors
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import types
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

LACKS = {
    "darwin": {
        "modules": {"spwd", "ossaudiodev", "msvcrt"},
        "os": {
            *("pidfd_open", "splice", "memfd_create", "eventfd", "sched_getaffinity", "sched_setaffinity", "O_TMPFILE"),
            *("setresuid", "getresuid", "copy_file_range", "O_PATH", "posix_fallocate", "posix_fadvise", "getrandom"),
            *("getxattr", "setxattr", "listxattr", "removexattr", "sched_yield", "pipe2"),
        },
        "signal": {"pidfd_send_signal", "sigtimedwait", "sigwaitinfo", "SIGPWR", "SIGSTKFLT", "SIGRTMIN", "SIGRTMAX"},
        "socket": {"AF_NETLINK", "AF_PACKET", "SO_PEERCRED", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "AF_VSOCK", "AF_ALG"},
        "select": {"epoll"},
        "time": {"CLOCK_BOOTTIME", "CLOCK_TAI"},
        "folders": {"/proc", "/sys"},
    },
    "win32": {
        "modules": {
            *("fcntl", "termios", "tty", "pty", "pwd", "grp", "resource", "spwd", "crypt", "nis", "syslog", "readline"),
            *("curses", "_curses", "_posixshmem", "ossaudiodev", "asyncssh.agent_unix"),
        },
        "os": {
            *("fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "getgroups", "getpgid", "getpgrp", "getsid"),
            *("setsid", "setuid", "setgid", "setpgid", "setpgrp", "initgroups", "killpg", "fchmod", "fchown", "chown"),
            *("lchown", "chroot", "mkfifo", "mknod", "pread", "pwrite", "preadv", "pwritev", "readv", "writev", "nice"),
            *(
                "sendfile",
                "statvfs",
                "fstatvfs",
                "uname",
                "wait",
                "wait3",
                "wait4",
                "waitid",
                "openpty",
                "set_blocking",
            ),
            *("get_blocking", "ctermid", "ttyname", "sysconf", "getloadavg", "posix_spawn", "posix_spawnp", "pipe2"),
            *("O_NOFOLLOW", "O_CLOEXEC", "O_DIRECTORY", "O_NONBLOCK", "O_NOCTTY", "O_SYNC", "WNOHANG", "WIFEXITED"),
            *("fdatasync", "sync", "lockf", "posix_fallocate", "environb", "getenvb", "tcgetpgrp", "tcsetpgrp"),
            *("register_at_fork", "getpriority", "setpriority", "major", "minor", "makedev", "fchdir", "fpathconf"),
        },
        "signal": {
            *("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCHLD", "SIGPIPE", "SIGALRM", "SIGTSTP"),
            *("SIGCONT", "SIGSTOP", "SIGQUIT", "SIGTTIN", "SIGTTOU", "SIGPROF", "SIGIO", "SIGPWR", "SIGTRAP", "SIGBUS"),
            *(
                "pause",
                "alarm",
                "setitimer",
                "sigwait",
                "sigpending",
                "pthread_kill",
                "pthread_sigmask",
                "siginterrupt",
            ),
        },
        "socket": {"AF_UNIX", "SO_REUSEPORT", "SO_PEERCRED", "AF_NETLINK", "AF_PACKET", "recv_fds", "send_fds"},
        "select": {"poll", "epoll"},
        "time": {"CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "clock_gettime", "clock_settime", "pthread_getcpuclockid"},
        "folders": {"/proc", "/sys", "/etc", "/dev"},
    },
}
"""Each system's modules, names of modules, and folders that are missing."""
LACKS["darwin"]["os"] |= {name for name in dir(os) if name.startswith(("EFD_", "GRND_", "MFD_", "SCHED_", "SPLICE_"))}
LACKS["darwin"]["signal"] |= {name for name in dir(signal) if name.startswith("SIGRT")}
WINDOWS_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
SIGBREAK = 21
NO_LOOP_OF_WINDOWS = (
    *("add_reader", "remove_reader", "add_writer", "remove_writer", "add_signal_handler", "remove_signal_handler"),
    *("create_unix_connection", "create_unix_server"),
)


class Missing(importlib.abc.MetaPathFinder):
    """Finds nothing where a module is to be missing."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def become(system: str) -> None:
    """Have this process be on the system from now on."""
    for module in (os, signal):  # programs are started as Linux does
        setattr(subprocess, module.__name__, types.SimpleNamespace(**vars(module)))
    sysconfig.get_config_vars()  # kept in a file of the system's name
    tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]
    lacks = LACKS[system]
    sys.meta_path.insert(0, Missing(lacks["modules"]))
    if system == "win32":
        be_windows()
    for name in lacks["modules"]:
        sys.modules.pop(name, None)
    import time

    for module in (os, signal, socket, select, time):
        for name in lacks[module.__name__] & vars(module).keys():
            delattr(module, name)
    selectors.DefaultSelector = selectors.SelectSelector  # type: ignore[misc]
    sys.addaudithook(hook(tuple(f"{folder}/" for folder in lacks["folders"]), is_windows=system == "win32"))
    sys.platform = system


def hook(folders: tuple[str, ...], *, is_windows: bool) -> Callable[[str, tuple[Any, ...]], None]:
    """What keeps a program out of folders that are missing, and on Windows from removing what it has open."""
    asking = threading.local()

    def look(event: str, args: tuple[Any, ...]) -> None:
        if getattr(asking, "is_so", False):
            return
        asking.is_so = True
        try:
            if event in ("open", "os.listdir", "os.scandir") and args and isinstance(args[0], str | bytes):
                path = os.fsdecode(args[0])
                if path.startswith(folders) and path != "/dev/null":
                    raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
            elif is_windows and event in ("os.remove", "os.rename"):
                for path in args[: 2 if event == "os.rename" else 1]:
                    if os.path.realpath(os.fsdecode(path)) in opened():
                        raise PermissionError(errno.EACCES, "The process cannot access the file", path)
        finally:
            asking.is_so = False

    return look


def opened() -> set[str]:
    """The files that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # it was the listing's
            continue
    return found


def be_windows() -> None:
    """Have what Windows has, and do as it does."""
    sys.modules["msvcrt"] = msvcrt()
    ctypes.windll = types.SimpleNamespace(kernel32=NoConsole())  # type: ignore[attr-defined]
    ctypes.util.find_library = lambda name: None  # type: ignore[assignment, misc]
    socket.SO_EXCLUSIVEADDRUSE = socket.SO_REUSEADDR  # type: ignore[attr-defined]
    socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)  # made of other sockets there
    shutil.which = on_linux(shutil.which)  # programs here have no endings
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    for known in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        known.clear()  # type: ignore[attr-defined]
    for name in NO_LOOP_OF_WINDOWS:
        setattr(asyncio.SelectorEventLoop, name, refused(getattr(asyncio.SelectorEventLoop, name)))
    select.select = of_sockets(select.select)
    have_few_signals()
    hear_ctrl_c_apart()


def on_linux(function: Callable[..., Any]) -> Callable[..., Any]:
    """What does as it does on Linux."""

    def call(*args: Any, **rest: Any) -> Any:
        sys.platform, system = "linux", sys.platform
        try:
            return function(*args, **rest)
        finally:
            sys.platform = system

    return call


def refused(method: Callable[..., Any]) -> Callable[..., Any]:
    """What only the library itself may call."""

    def call(*args: Any, **rest: Any) -> Any:
        if not sys._getframe(1).f_globals["__name__"].startswith("asyncio."):
            raise NotImplementedError
        return method(*args, **rest)

    return call


class NoConsole:
    """The part of Windows that has to do with consoles, where a program has none."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *args: 0


def msvcrt() -> types.ModuleType:
    """Locks as Windows has them: none is shared, and whoever waits tries again."""
    module = types.ModuleType("msvcrt")

    def locking(descriptor: int, mode: int, size: int) -> None:
        if os.lseek(descriptor, 0, os.SEEK_CUR) < os.fstat(descriptor).st_size:
            raise AssertionError("nobody could read what is locked")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    vars(module).update(locking=locking, LK_NBLCK=2, LK_UNLCK=0, LK_LOCK=1, get_osfhandle=lambda descriptor: descriptor)
    return module


def of_sockets(wait: Callable[..., Any]) -> Callable[..., Any]:
    """`select`, which knows nothing but sockets."""

    def selecting(*args: Any) -> Any:
        for one in (one for many in args[:3] for one in many):
            if not stat.S_ISSOCK(os.fstat(one if isinstance(one, int) else one.fileno()).st_mode):
                raise OSError(10038, "An operation was attempted on something that is not a socket")
        return wait(*args)

    return selecting


def have_few_signals() -> None:
    former = signal.signal
    known = {name: getattr(signal, name).value for name in sorted(WINDOWS_SIGNALS)} | {"SIGBREAK": SIGBREAK}
    signal.Signals = enum.IntEnum("Signals", known)  # type: ignore[misc, assignment]
    for name in known:
        setattr(signal, name, signal.Signals[name])

    def handle(number: int, handler: Any) -> Any:
        if number not in known.values():
            raise ValueError("invalid signal value")
        return former(number, handler)

    signal.signal = handle  # type: ignore[assignment]


def hear_ctrl_c_apart() -> None:
    """Have another thread get SIGINT: the main one runs the handler later, and what it waits for goes on."""
    pause = signal.pause

    def stay() -> None:
        while True:
            pause()

    threading.Thread(target=stay, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


if __name__ == "__main__":
    _, system, program, *_ = sys.argv
    sys.argv = sys.argv[2:]
    if program.endswith(".py"):
        sys.path.insert(0, os.path.dirname(program))
        become(system)
        runpy.run_path(program, run_name="__main__")
    else:
        become(system)
        runpy.run_module(program, run_name="__main__", alter_sys=True)
