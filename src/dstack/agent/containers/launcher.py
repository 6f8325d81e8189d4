"""A tiny static program that is mounted into every job's container and starts the job there.

It needs nothing of the image, not even a shell or a C library, so that the output of any image goes where that of a
process job goes: into the job's pipe, whatever becomes of agent and engine. Its arguments:

    launch LOG MESSAGE CANDIDATE... "" "" ARGUMENT...

It opens LOG for appending as its standard output and error, and becomes the first candidate that can be executed, under
its own path as name. Where none can, it writes MESSAGE and ends with 127. It makes system calls of Linux only; their
numbers are in the kernel's own tables.
"""

import struct
from collections.abc import Sequence

NOT_STARTED = 127
"""The exit code where no candidate could be executed."""

_BASE = 0x400000
_HEADERS_BYTES = 64 + 56
_X86_64, _AARCH64 = 62, 183
"""Machine numbers of the ELF format."""

_CODE = {
    "x86_64": (
        _X86_64,
        "4889e5 488b4500 4c8d64c510"  # rbp = stack; r12 = environment, behind the arguments
        "488b7d10 be01040000 6a0258 0f05"  # open(LOG, O_WRONLY | O_APPEND)
        "85c0 785e"  # failed: to the end
        "89c7 6a015e 6a2158 0f05 ffc6 6a2158 0f05 6a0358 0f05"  # dup2 to 1 and 2, close
        "4c8d6d20 4d89ee"  # r13 = r14 = the first candidate
        "498b06 4983c608 803800 75f4"  # r14 = what follows the empty argument
        "498b7d00 4983c508 803f00 7410"  # the next candidate; none is left: to the message
        "49893e 4c89f6 4c89e2 6a3b58 0f05 ebe3"  # r14[0] = candidate; execve(candidate, r14, environment), and on
        "488b7518 31d2 803c1600 7404 ffc2 ebf6"  # the length of MESSAGE
        "6a025f 6a0158 0f05"  # write(2, MESSAGE)
        "6a7f5f 6a3c58 0f05",  # exit(127)
    ),
    "aarch64": (
        _AARCH64,
        "f30340f9 f4230091 950e138b b5220091"  # x20 = arguments; x21 = environment, behind them
        "600c8092 810640f9 228080d2 080780d2 010000d4"  # openat(AT_FDCWD, LOG, O_WRONLY | O_APPEND)
        "6004f8b7 f60300aa"  # failed: to the end
        "210080d2 020080d2 080380d2 010000d4"  # dup3 to 1
        "e00316aa 410080d2 010000d4"  # dup3 to 2
        "e00316aa 280780d2 010000d4"  # close
        "97620091 f80317aa"  # x23 = x24 = the first candidate
        "098740f8 2a014039 caffff35"  # x24 = what follows the empty argument
        "e08640f8 0a004039 ea000034"  # the next candidate; none is left: to the message
        "000300f9"  # x24[0] = candidate
        "e10318aa e20315aa a81b80d2 010000d4 f8ffff17"  # execve(candidate, x24, environment), and on
        "810a40f9 020080d2 2a686238 6a000034 42040091 fdffff17"  # the length of MESSAGE
        "400080d2 080880d2 010000d4"  # write(2, MESSAGE)
        "e00f80d2 a80b80d2 010000d4",  # exit(127)
    ),
}
MACHINES = frozenset(_CODE)
"""The machines, as `uname -m` names them, on which jobs can run in containers."""


def launcher(machine: str) -> bytes:
    """The program for a machine: an ELF file with one segment that may be read and executed.

    Args:
        machine: one of `MACHINES`.
    """
    number, text = _CODE[machine]
    code = bytes.fromhex(text)
    size = _HEADERS_BYTES + len(code)
    identity = b"\x7fELF" + bytes((2, 1, 1, 0)) + bytes(8)
    header = identity + struct.pack(
        "<HHIQQQIHHHHHH", 2, number, 1, _BASE + _HEADERS_BYTES, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def launch_arguments(log: str, message: str, candidates: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """What the program is called with.

    Args:
        log: the file for what the job prints, in the container.
        message: what to write there when nothing could be started.
        candidates: paths to try, in this order.
        arguments: of the job's program, without its name.
    """
    return [log, message, *candidates, "", "", *arguments]
