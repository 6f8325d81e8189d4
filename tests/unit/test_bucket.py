"""A bucket, against a storage that speaks the protocol."""

import pytest

from dstack.bucket import Bucket
from dstack.errors import ConfigurationError, StorageUnavailable
from tests.s3 import S3Server


def test_a_bucket_gives_back_what_was_put_into_it(bucket: Bucket) -> None:
    bucket.check()
    bucket.put("a/1", b"first")
    bucket.put("a/1", b"second")
    assert bucket.get("a/1") == b"second"
    assert bucket.get("a/1", 2) == b"cond"
    assert bucket.get("a/1", 1, 3) == b"ec"
    assert (bucket.get("a/2"), bucket.changed_at("a/2")) == (None, None)


def test_a_listing_is_in_order_and_has_all_pages(bucket: Bucket) -> None:
    names = [f"a/{number:02}" for number in range(20)]
    bucket.map(lambda name: bucket.put(name, b"x"), names)
    bucket.put("b/1", b"other")
    assert [one.name for one in bucket.list("a/")] == names
    assert [one.name for one in bucket.list("a/", after="a/04")] == names[5:]
    bucket.delete([*names[1:], "not/there"])
    assert [(one.name, one.size_bytes) for one in bucket.list("a/")] == [("a/00", 1)]


def test_touching_keeps_the_bytes(bucket: Bucket) -> None:
    bucket.put("a", b"bytes")
    before = bucket.changed_at("a")
    bucket.touch("a")
    after = bucket.changed_at("a")
    assert before is not None and after is not None and before <= after
    assert bucket.get("a") == b"bytes"


def test_a_bucket_that_is_not_there_is_one_clear_message(s3: S3Server, s3_credentials: None) -> None:
    with pytest.raises(ConfigurationError, match=r"The bucket `no-such-bucket` cannot be used: .*NoSuchBucket"):
        Bucket("no-such-bucket", "", s3.url).check()


def test_a_storage_that_does_not_answer_is_one_clear_message(
    s3_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack.bucket.TRIES", 1)
    nobody = Bucket("any", "", "http://127.0.0.1:1")
    with pytest.raises(StorageUnavailable, match="Could not connect to the endpoint URL"):
        nobody.get("a")
    with pytest.raises(ConfigurationError, match="See DSTACK_S3_BUCKET"):
        nobody.check()


def test_a_url_that_is_none_is_refused(s3_credentials: None) -> None:
    with pytest.raises(ConfigurationError, match="The bucket `any` cannot be used: Invalid endpoint: nonsense"):
        Bucket("any", "", "nonsense")
