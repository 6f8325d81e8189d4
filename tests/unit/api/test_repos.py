"""Repos that a program makes."""

import pytest

from dstack.api import ConfigurationError, RemoteRepo, VirtualRepo


def files(repo: VirtualRepo) -> dict[str, object]:
    return {item.path: item.source for item in repo.items()}


@pytest.mark.parametrize("content", [b"hello", bytearray(b"hello"), memoryview(b"-hello-")[1:6]])
def test_whatever_holds_bytes_is_a_files_content(content: bytes | bytearray | memoryview) -> None:
    repo = VirtualRepo("x")
    repo.add_file("a.txt", content)
    assert files(repo) == {"a.txt": b"hello"}


def test_what_is_added_later_to_a_buffer_does_not_change_the_file() -> None:
    repo, content = VirtualRepo("x"), bytearray(b"hello")
    repo.add_file("a.txt", content)
    content += b" there"
    assert files(repo) == {"a.txt": b"hello"}


@pytest.mark.parametrize("content", ["hello", "/etc/hostname"])
def test_a_text_is_refused_with_the_way_to_make_bytes_of_it(content: object) -> None:
    repo = VirtualRepo("x")
    with pytest.raises(TypeError, match=r"expected the bytes of `a\.txt`, found a text: pass `content\.encode\(\)`"):
        repo.add_file("a.txt", content)  # type: ignore[arg-type]
    assert files(repo) == {}


@pytest.mark.parametrize("content", [None, 3, ["a"]])
def test_what_holds_no_bytes_is_refused(content: object) -> None:
    with pytest.raises(TypeError, match="expected the bytes of `a`, found a value of type"):
        VirtualRepo("x").add_file("a", content)  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("a/b", "a/b/c/d")])
def test_a_file_cannot_be_a_folder_too(first: str, second: str) -> None:
    repo = VirtualRepo("x")
    repo.add_file(first, b"")
    with pytest.raises(ValueError, match=f"`{second}` and `{first}` cannot both be files"):
        repo.add_file(second, b"")
    assert files(repo) == {first: b""}


def test_files_side_by_side_and_in_place_of_each_other_are_fine() -> None:
    repo = VirtualRepo("x")
    for path in ("a/b", "a/bc", "ab", "a/b"):
        repo.add_file(path, path.encode())
    assert list(files(repo)) == ["a/b", "a/bc", "ab"]


def test_a_path_that_no_file_system_takes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a path that UTF-8 can write, found 'a\\ud800'"):
        VirtualRepo("x").add_file("a\ud800", b"")


def test_any_text_may_be_an_id() -> None:
    ids = ["my-files", "my files", "team/x", "team/y", "..", "", "x" * 201, "\udcff"]
    sent = [VirtualRepo(one).ref(None).id for one in ids]
    assert sent[:2] == ids[:2]
    assert all(one.startswith("virtual-") and len(one) == 24 for one in sent[2:])
    assert len(set(sent)) == len(ids)


@pytest.mark.parametrize(
    ("revision", "says"),
    [
        (("-x",), "'-x' can be no branch"),
        (("a b",), "'a b' can be no branch"),
        (("\udcff",), "can be no branch"),
        ((None, "main"), "'main' can be no commit"),
        ((None, "0a1b2c"), "'0a1b2c' can be no commit"),
    ],
)
def test_what_can_be_no_revision_is_told(revision: tuple[str | None, ...], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        RemoteRepo.from_url("https://example.com/a/b", *revision)


@pytest.mark.parametrize(
    "url",
    [
        "https://[x/a",
        "https://example.com:abc/x",
        "https://example.com:99999/x",
        "ssh://git@example.com:x/a",
        "https://example.com/\udcff",
        "git@\udcff:a/b",
        "git@example.com:a\nb",
    ],
)
def test_what_is_no_url_of_a_remote_is_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the URL of a remote repository"):
        RemoteRepo.from_url(url, "main")
