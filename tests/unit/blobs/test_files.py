import os
from pathlib import Path

import pytest

from dstack.blobs.files import BlobFiles
from dstack.errors import InvalidRequestError
from dstack.protocol.files import hash_of

BLOB = b"some bytes"


def test_a_blob_comes_back_under_its_hash(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    assert not blobs.has(hash_of(BLOB))
    blobs.put(hash_of(BLOB), BLOB)
    assert blobs.has(hash_of(BLOB))
    assert blobs.get(hash_of(BLOB)) == BLOB
    assert blobs.get(hash_of(b"other")) is None


def test_bytes_under_a_wrong_hash_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="have another hash"):
        BlobFiles(tmp_path).put(hash_of(b"other"), BLOB)


@pytest.mark.parametrize("name", ["", "..", "../" * 20 + "etc/passwd", "Z" * 64, "a" * 63])
def test_what_is_no_hash_names_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not the hash of a blob"):
        BlobFiles(tmp_path).get(name)


def test_only_what_nobody_asked_for_lately_is_pruned(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    for blob in (BLOB, b"old"):
        blobs.put(hash_of(blob), blob)
        os.utime(tmp_path / hash_of(blob)[:2] / hash_of(blob), (1000, 1000))
    blobs.has(hash_of(BLOB))
    assert blobs.prune(unused_since=2000) == 1
    assert (blobs.get(hash_of(BLOB)), blobs.get(hash_of(b"old"))) == (BLOB, None)
