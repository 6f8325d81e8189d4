"""How messages travel between server and agent: one line of JSON each; where it has `bytes: n`, n raw bytes follow."""

import json
from asyncio import StreamReader, StreamWriter
from typing import Any, cast

from dstack.errors import BackendError
from dstack.kit.text import storable

LINE_BYTES_MAX = 1 << 20
"""Make every reader with `limit=LINE_BYTES_MAX`."""

PAYLOAD_BYTES_MAX = 4 << 20
"""As large as the largest blob."""


def _frame_of(line: bytes, values_max: int | None) -> dict[str, Any]:
    """The frame in a line. Only an escape sequence can hold what no database takes, since no control character may
    stand in JSON as it is."""
    if values_max is not None and len(line) > values_max and sum(map(line.count, (b",", b"{", b"["))) > values_max:
        raise ValueError(f"more than {values_max} values")
    text = line.decode("utf-8", "replace")
    frame = json.loads(text)
    if not isinstance(frame, dict):
        raise ValueError("not a JSON object")
    return cast("dict[str, Any]", storable(frame)) if "\\u" in text else frame


def _payload_bytes(frame: dict[str, Any]) -> int:
    size = frame["bytes"]
    if not isinstance(size, int) or not 0 <= size <= PAYLOAD_BYTES_MAX:
        raise ValueError(f"a payload of {size} bytes")
    return size


async def read_frame(reader: StreamReader, values_max: int | None = None) -> tuple[dict[str, Any], bytes] | None:
    """The next frame and its payload, or None at the end of the stream. Every text of the frame can be stored.

    The reader must have been made with `limit=LINE_BYTES_MAX`.

    Args:
        values_max: how many values it may have: an empty list takes two bytes on the wire, and thirty times that here.

    Raises:
        ConnectionError: the stream broke in the middle of a frame, or carries something else.
    """
    try:
        line = await reader.readline()
        if not line:
            return None
        if not line.endswith(b"\n"):
            raise ConnectionError("the stream ended in the middle of a frame")
        frame = _frame_of(line, values_max)
        payload = await reader.readexactly(_payload_bytes(frame)) if "bytes" in frame else b""
    except (ValueError, EOFError, RecursionError) as error:
        raise ConnectionError(f"not a frame: {error}") from error
    return frame, payload


def write_frame(writer: StreamWriter, frame: dict[str, Any], payload: bytes | None = None) -> None:
    """Queue one frame; the caller drains. Frames are whole because nothing awaits in between.

    Raises:
        BackendError: its line is longer than a reader takes; nothing was queued.
    """
    if payload is not None:
        frame = {**frame, "bytes": len(payload)}
    line = json.dumps(frame, separators=(",", ":")).encode() + b"\n"
    if len(line) > LINE_BYTES_MAX:
        raise BackendError(f"The message `{frame.get('t')}` has {len(line)} bytes, and at most {LINE_BYTES_MAX} travel")
    writer.write(line)
    if payload:
        writer.write(payload)
