"""What every blob store promises, whatever it keeps the bytes in."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from dstack.blobs.base import SHARED, BlobStore
from dstack.blobs.bucket import BlobBucket
from dstack.blobs.files import BlobFiles
from dstack.bucket import Bucket
from dstack.errors import InvalidRequestError
from dstack.kit.clock import SystemClock
from dstack.protocol.files import hash_of
from tests.making import HandClock

BLOB = b"some bytes"
OWNER, OTHER = "0-project", "1-project"


@pytest.fixture(params=["files", "bucket"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "files":
        return BlobFiles(tmp_path)
    return BlobBucket(request.getfixturevalue("bucket"), SystemClock())


def test_a_blob_comes_back_under_its_hash(blobs: BlobStore) -> None:
    other = hash_of(b"other")
    assert blobs.missing(OWNER, [hash_of(BLOB), other]) == [hash_of(BLOB), other]
    blobs.put(OWNER, hash_of(BLOB), BLOB)
    assert blobs.missing(OWNER, [hash_of(BLOB), other]) == [other]
    assert blobs.get(OWNER, hash_of(BLOB)) == BLOB
    assert blobs.get(OWNER, other) is None


def test_blob_of_one_project_is_missing_in_another(blobs: BlobStore) -> None:
    blobs.put(OWNER, hash_of(BLOB), BLOB)
    assert blobs.missing(OTHER, [hash_of(BLOB)]) == [hash_of(BLOB)]
    assert blobs.get(OTHER, hash_of(BLOB)) is None
    assert (blobs.find([OTHER], hash_of(BLOB)), blobs.find([OTHER, OWNER], hash_of(BLOB))) == (None, BLOB)


def test_blobs_of_a_former_server_are_pruned_too(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    blobs.put(SHARED, hash_of(BLOB), BLOB)
    assert blobs.find([OWNER], hash_of(BLOB)) == BLOB
    assert (tmp_path / hash_of(BLOB)[:2] / hash_of(BLOB)).exists(), "its place in the first release"
    assert blobs.prune(unused_since=1e12) == 1


def test_bytes_under_a_wrong_hash_are_refused(blobs: BlobStore) -> None:
    with pytest.raises(InvalidRequestError, match="have another hash"):
        blobs.put(OWNER, hash_of(b"other"), BLOB)


@pytest.mark.parametrize("name", ["", "..", "../" * 20 + "etc/passwd", "Z" * 64, "a" * 63])
def test_what_is_no_hash_names_nothing(blobs: BlobStore, name: str) -> None:
    for use in (lambda: blobs.get(OWNER, name), lambda: blobs.missing(OWNER, [name])):
        with pytest.raises(InvalidRequestError, match="is not the hash of a blob"):
            use()


def test_only_what_nobody_asked_for_lately_is_pruned_from_files(tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path)
    for blob in (BLOB, b"old"):
        blobs.put(OWNER, hash_of(blob), blob)
        os.utime(tmp_path / OWNER / hash_of(blob)[:2] / hash_of(blob), (1000, 1000))
    assert blobs.missing(OWNER, [hash_of(BLOB)]) == []
    assert blobs.prune(unused_since=2000) == 1
    assert (blobs.get(OWNER, hash_of(BLOB)), blobs.get(OWNER, hash_of(b"old"))) == (BLOB, None)


def test_only_what_nobody_asked_for_lately_is_pruned_from_a_bucket(
    bucket: Bucket, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, touched = BlobBucket(bucket, clock), list[str]()
    monkeypatch.setattr(bucket, "touch", touched.append)
    stored_at = SystemClock().now()
    clock.time = stored_at
    blobs.put(OWNER, hash_of(BLOB), BLOB)
    assert blobs.get(OWNER, hash_of(BLOB)) == BLOB
    assert touched == [], "today's use is noted already"
    clock.time = stored_at + timedelta(days=2)
    assert blobs.missing(OWNER, [hash_of(BLOB)]) == []
    assert touched == [f"blobs/{OWNER}/{hash_of(BLOB)}"]
    assert blobs.prune((stored_at - timedelta(days=1)).timestamp()) == 0
    assert blobs.prune((stored_at + timedelta(days=1)).timestamp()) == 1
    assert blobs.missing(OWNER, [hash_of(BLOB)]) == [hash_of(BLOB)]
