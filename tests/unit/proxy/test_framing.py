"""Bodies in chunks: any split of the same bytes gives the same body."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dstack.proxy.framing import Chunked, chunk, last_chunk


def read(pieces: list[bytes]) -> tuple[bytes, bytes | None]:
    """Return the body in these bytes, and the bytes behind it."""
    chunked, body = Chunked(), b""
    for place, piece in enumerate(pieces):
        part, rest = chunked.feed(piece)
        body += part
        if rest is not None:
            return body, rest + b"".join(pieces[place + 1 :])
    return body, None


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.binary(max_size=9), st.sets(st.integers(0, 200)))
def test_body_survives_any_split(parts: list[bytes], rest: bytes, cuts: set[int]) -> None:
    data = b"".join(map(chunk, parts)) + last_chunk([(b"X-Sum", b"1")] if len(parts) % 2 else []) + rest
    places = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in pairwise(places)]
    assert read(pieces) == (b"".join(parts), rest)


def test_trailers_are_read() -> None:
    chunked = Chunked()
    assert chunked.feed(b"0\r\nX-Sum:  1 \r\nX-B:\r\n\r\n") == (b"", b"")
    assert chunked.trailers == [(b"X-Sum", b"1"), (b"X-B", b"")]
