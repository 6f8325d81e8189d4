"""A bucket of S3-compatible object storage, as logs and uploads use one: for servers that share no folder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from dstack.errors import ConfigurationError, StorageUnavailable

T = TypeVar("T")
U = TypeVar("U")

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
TRIES = 4
AT_ONCE_MAX = 16
"""How many requests of one `map` are under way at a time."""
DELETE_AT_ONCE = 1000
"""As many names as one request of the protocol takes."""

CHECK = "dstack-check"
"""An object that shows that the bucket can be used."""

_NOT_THERE = ("NoSuchKey", "404")


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a listing."""

    name: str
    size_bytes: int
    changed_at: datetime


class Bucket:
    """One bucket, or what of it lies below a prefix. Plain blocking code, run in threads, by any number of them."""

    def __init__(self, name: str, prefix: str = "", endpoint_url: str | None = None) -> None:
        """Credentials and region are found as every AWS tool finds them: environment, `~/.aws`, the machine's role.

        Args:
            prefix: before every object's name; with its `/`.
            endpoint_url: of a storage that is not Amazon's.

        Raises:
            ConfigurationError: the settings make no sense.
        """
        self._bucket = name
        self._prefix = prefix
        self._pool = ThreadPoolExecutor(AT_ONCE_MAX, thread_name_prefix="bucket")
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": TRIES},
            max_pool_connections=4 * AT_ONCE_MAX,
            # Storages other than Amazon's do not know the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = Session()
        try:
            region = session.get_config_variable("region") or "us-east-1"
            self._s3: Any = session.create_client("s3", region_name=region, endpoint_url=endpoint_url, config=config)
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"The bucket `{name}` cannot be used: {error}") from error

    def check(self) -> None:
        """Write, find, read and delete, so that what is wrong shows now and not with the first log line.

        Raises:
            ConfigurationError: one of them does not work.
        """
        try:
            self.put(CHECK, b"dstack")  # it stays: other servers may check just now
            found, read = [one.name for one in self.list(CHECK)], self.get(CHECK)
            self.delete([f"{CHECK}-no-more"])
        except StorageUnavailable as error:
            raise ConfigurationError(
                error.message,
                hint="See DSTACK_S3_BUCKET and DSTACK_S3_ENDPOINT_URL, and the credentials (AWS_ACCESS_KEY_ID, …)",
            ) from error
        if (found, read) != ([CHECK], b"dstack"):
            raise ConfigurationError(f"The bucket `{self._bucket}` does not return the object that was stored in it")

    def close(self) -> None:
        """Let go of connections and threads."""
        self._pool.shutdown()
        self._s3.close()

    def put(self, name: str, data: bytes) -> None:
        """Store an object, in the place of one of the same name. It is durable once this returns."""
        self._ask("put_object", name, Body=data)

    def get(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        """The bytes of an object from `start` up to `end`, which it must have; None where there is no such object."""
        part = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        answer = self._ask("get_object", name, **part)
        try:
            return None if answer is None else bytes(answer["Body"].read())
        except (BotoCoreError, OSError) as error:
            raise self._unavailable(error) from error

    def changed_at(self, name: str) -> datetime | None:
        """Return when an object was last stored; None if it is missing."""
        answer = self._ask("head_object", name)
        return None if answer is None else answer["LastModified"]

    def touch(self, name: str) -> None:
        """Set the time of an object to now."""
        whole = self._prefix + name
        source = {"Bucket": self._bucket, "Key": whole}
        self._ask("copy_object", name, CopySource=source, MetadataDirective="REPLACE")

    def list(self, prefix: str, after: str = "") -> Iterator[Found]:
        """The objects whose names begin so, in the order of their names; only those whose names come after `after`."""
        more = {"StartAfter": self._prefix + after} if after else {}
        while True:
            page = self._call("list_objects_v2", Prefix=self._prefix + prefix, **more)
            for one in page.get("Contents", ()):
                yield Found(one["Key"].removeprefix(self._prefix), one["Size"], one["LastModified"])
            if not page["IsTruncated"]:
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are not there do not matter."""
        left = iter(names)
        while batch := list(islice(left, DELETE_AT_ONCE)):
            objects = [{"Key": self._prefix + name} for name in batch]
            answer = self._call("delete_objects", Delete={"Objects": objects, "Quiet": True})
            if errors := answer.get("Errors"):
                raise StorageUnavailable(f"The bucket `{self._bucket}` keeps `{batch[0]}`: {errors[0].get('Message')}")

    def map(self, function: Callable[[T], U], of: Sequence[T]) -> Sequence[U]:
        """The function of each, some at a time: requests spend their time waiting."""
        return [*self._pool.map(function, of)] if len(of) > 1 else [function(one) for one in of]

    def _ask(self, operation: str, name: str, **arguments: object) -> Any:
        """Return the answer about one object; None if it is missing."""
        try:
            return self._call(operation, Key=self._prefix + name, **arguments)
        except _NotThere:
            return None

    def _call(self, operation: str, **arguments: object) -> Any:
        try:
            return getattr(self._s3, operation)(Bucket=self._bucket, **arguments)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _NOT_THERE:
                raise _NotThere from error
            raise self._unavailable(error) from error
        except (BotoCoreError, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StorageUnavailable:
        return StorageUnavailable(f"The bucket `{self._bucket}` cannot be used: {error}")


class _NotThere(Exception):
    """There is no object of this name."""
