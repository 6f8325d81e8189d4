"""What is done on Windows in place of what it lacks: in a process that plays it."""

import subprocess
import sys
from pathlib import Path

FOREIGN = Path(__file__).parents[2] / "foreign.py"


def on_windows(folder: Path, program: str) -> str:
    """Run a program in a folder, as on Windows; returns what it printed."""
    file = folder / "program.py"
    file.write_text(program)
    command = [sys.executable, str(FOREIGN), "win32", str(file)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOCKS = """
import os, threading
from pathlib import Path
from dstack.kit import locks

path = Path("claim")
print(locks.is_locked(path))
held = locks.take(path)
os.lseek(held, 0, os.SEEK_SET)
os.write(held, b"who")
print(locks.is_locked(path), locks.take(path), path.read_text())

def wait():
    with locks.locked(path):
        print("after")

waiting = threading.Thread(target=wait)
waiting.start()
print("before")
os.close(held)
waiting.join()
print(locks.is_locked(path))
path.unlink()
"""


def test_lock_is_exclusive_seen_by_others_and_leaves_the_content_readable(tmp_path: Path) -> None:
    assert on_windows(tmp_path, LOCKS).split() == ["False", "True", "None", "who", "before", "after", "False"]


FILES = """
import os, threading
from pathlib import Path
from dstack.api._places import write_whole
from dstack.api._files import Item, pack
from dstack.protocol.files import entries_of
from dstack.kit import systems

open_elsewhere = open("config")
first = systems.os.replace

def replace(source, target):
    try:
        first(source, target)
    except PermissionError:
        print("busy")
        open_elsewhere.close()
        raise

systems.os.replace = replace
write_whole(Path("config"), "new")
print(Path("config").read_text())

for name, text in (("script", "#!/bin/sh"), ("text", "#"), ("data", "")):
    Path(name).write_text(text)
packed = pack([Item(name, Path(name).absolute()) for name in ("script", "text", "data")])
(page,) = packed.pages
print(*(f"{entry.path} {entry.mode:o}" for entry in entries_of(packed.blob(page))))
"""


def test_file_that_is_open_elsewhere_is_replaced_later_and_scripts_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("old")
    assert on_windows(tmp_path, FILES).split("\n") == ["busy", "new", "data 644 script 755 text 644", ""]


INTERRUPTED = """
import _thread, socket, threading
from dstack.api._interruptible import _Steps

ours, silent = socket.socketpair()
steps = _Steps(ours, socket.SocketIO(ours, "r"))
threading.Timer(0.1, _thread.interrupt_main).start()  # wakes nobody, as on Windows
try:
    steps.readinto(bytearray(10))
except KeyboardInterrupt:
    print("interrupted")
silent.sendall(b"now")
got = bytearray(10)
print(steps.readinto(got), got[:3].decode())
ours.settimeout(0.01)
try:
    steps.readinto(got)
except TimeoutError as error:
    print(error)
"""


def test_ctrl_c_ends_the_wait_for_bytes(tmp_path: Path) -> None:
    assert on_windows(tmp_path, INTERRUPTED).splitlines() == ["interrupted", "3 now", "timed out"]


LEFT = """
import errno, sys
from dstack.cli import process

try:
    with process.output():
        raise OSError(errno.EINVAL, "Invalid argument")  # what writing to a pipe that nobody reads says there
except BrokenPipeError:
    print("left", file=sys.stderr)
print(process.ENDING, file=sys.stderr)
"""


def test_reader_that_has_left_is_noticed_and_a_closed_console_ends_a_command(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(LEFT)
    done = subprocess.run([sys.executable, str(FOREIGN), "win32", str(file)], capture_output=True, text=True)
    assert done.stderr.splitlines()[0] == "left" and "SIGBREAK" in done.stderr


CONSOLE = """
import ctypes, io, os
from dstack.kit import terminals

class Console:
    mode = 3
    page = 437
    def GetConsoleMode(self, handle, reference):
        reference._obj.value = self.mode
        return 1
    def SetConsoleMode(self, handle, mode):
        self.mode = mode
    def GetConsoleCP(self):
        return self.page
    GetConsoleOutputCP = GetConsoleCP
    def SetConsoleCP(self, page):
        self.page = page
    SetConsoleOutputCP = SetConsoleCP

class Stream(io.TextIOWrapper):
    def isatty(self):
        return True
    def fileno(self):
        return 1

console = ctypes.windll.kernel32 = Console()
stream = Stream(io.BytesIO())
terminals.understand_colors(stream)
print(console.mode)
with terminals.raw(0):
    print(console.mode, console.page)
print(console.mode, console.page)
print(terminals.write(stream, memoryview(b"bytes")), stream.buffer.getvalue().decode())
"""


def test_console_understands_colours_sends_each_key_and_is_as_before(tmp_path: Path) -> None:
    assert on_windows(tmp_path, CONSOLE).splitlines() == ["7", "512 65001", "7 437", "5 bytes"]
