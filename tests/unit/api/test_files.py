"""How a folder is read and sent."""

import json
import os
import shutil
import socket
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from dstack.api import _files, _folders, _transport
from dstack.api._files import pack, upload
from dstack.api._repos import RemoteRepo
from dstack.api._servers import Address, FixedServer
from dstack.api._transport import Transport
from dstack.errors import ConfigurationError, DstackError, ServerUnreachableError
from dstack.protocol.files import CHUNK_BYTES, FileEntry, entries_of, hash_of, page_hashes_of

from .conftest import Answer, Asked, FakeServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    one = tmp_path / "work"
    one.mkdir()
    return one


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def write(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)


def entries(folder: Path) -> list[FileEntry]:
    package = pack(_folders.items_in(folder))
    return [entry for page in page_hashes_of(package.blob(package.root)) for entry in entries_of(package.blob(page))]


def paths(folder: Path) -> list[str]:
    return [item.path for item in _folders.items_in(folder)]


HEADERS_BYTES = 500
"""More than a request has beside its body."""


class BlobStore:
    """The server's side: keeps what it is sent."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.puts = 0

    def answer(self, asked: Asked) -> Answer:
        if asked.method == "PUT":
            self.puts += 1
            name = asked.path.rsplit("/", 1)[1]
            assert hash_of(asked.body) == name
            self.blobs[name] = asked.body
            return Answer(204, b"")
        question = json.loads(asked.body)
        missing = [name for name in question["hashes"] + question.get("pages", []) if name not in self.blobs]
        return Answer(body=json.dumps({"missing": missing}).encode())


@pytest.fixture
def store(server: FakeServer) -> BlobStore:
    one = BlobStore()
    server.answer = one.answer
    return one


def test_an_upload_outlasts_a_server_that_is_away_and_goes_on_where_it_was(
    server: FakeServer, transport: Transport, store: BlobStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transport, "FIRST_DELAY", timedelta(milliseconds=1))
    monkeypatch.setattr(_transport, "LONGEST_DELAY", timedelta(milliseconds=1))
    monkeypatch.setattr(_files, "PARALLEL_UPLOADS", 1)
    for number in range(5):
        (folder / f"{number}").write_text(f"{number}")
    away, told = 20 * _transport.TRIES, list[str]()

    def answer(asked: Asked) -> Answer:
        nonlocal away
        if asked.method == "PUT" and store.puts == 3 and away:
            away -= 1
            return Answer(cut=True) if away % 2 else Answer(503, b"<html>nobody here</html>")
        return store.answer(asked)

    server.answer = answer
    transport.when_away = told.append
    root = upload(transport, "main", lambda: _folders.items_in(folder))
    assert (away, root in store.blobs, store.puts) == (0, True, len(store.blobs))
    assert set(told) == {f"No server answers at `{server.url}` (status 503); this goes on when it is back"}


def test_a_server_that_never_was_there_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transport, "FIRST_DELAY", timedelta(milliseconds=1))
    (folder / "a").write_text("a")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    transport = Transport(FixedServer(Address(f"http://127.0.0.1:{port}", "s3cret")))
    with pytest.raises(ServerUnreachableError):
        upload(transport, "main", lambda: _folders.items_in(folder))
    transport.close()


@pytest.mark.parametrize("under_git", [True, False])
def test_what_gitignore_names_and_git_itself_stay_here(folder: Path, under_git: bool) -> None:
    if under_git:
        git(folder, "init", "-q")
    write(folder, "a.py", "sub/b.py", "sub/c.log", "build/x", "keep.log", "ü n.txt")
    (folder / ".gitignore").write_text("*.log\n!keep.log\n/build/\n")
    assert paths(folder) == [".gitignore", "a.py", "keep.log", "sub/b.py", "ü n.txt"]


def test_what_git_tracks_is_sent_as_it_is_now(folder: Path) -> None:
    git(folder, "init", "-q")
    write(folder, "tracked.log", "gone.py")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "x")
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "gone.py").unlink()
    assert paths(folder) == [".gitignore", "tracked.log"]


@pytest.mark.parametrize("under_git", [True, False])
def test_what_dstackignore_names_stays_here_by_the_grammar_of_gitignore(folder: Path, under_git: bool) -> None:
    write(folder, "a.py", "data/x", "sub/b.log", "sub/keep.log", "sub/own/c", "sub/tracked.log")
    (folder / ".gitignore").write_text("*.py\n")
    (folder / ".dstackignore").write_text("*.log\n!keep.log\n/data/\n")
    (folder / "sub" / ".dstackignore").write_text("own\n")
    if under_git:
        git(folder, "init", "-q")
        git(folder, "add", "data", "sub/tracked.log")
    assert paths(folder) == [".dstackignore", ".gitignore", "sub/.dstackignore", "sub/keep.log"]


def test_a_dstackignore_above_the_folder_counts_in_a_checkout(folder: Path) -> None:
    git(folder, "init", "-q")
    write(folder, "part/a.py", "part/big.bin")
    (folder / ".dstackignore").write_text("*.bin\n")
    assert paths(folder / "part") == ["a.py"]


def test_the_files_of_a_submodule_are_sent(folder: Path) -> None:
    with_submodule(folder)
    write(folder, "lib/changed", "lib/x.log")
    (folder / "lib" / ".gitignore").write_text("*.log\n")
    assert paths(folder) == [".gitmodules", "lib/.gitignore", "lib/changed", "lib/code.py"]


def test_a_submodule_that_is_not_checked_out_is_refused_by_name(folder: Path) -> None:
    with_submodule(folder)
    git(folder, "submodule", "deinit", "-q", "-f", "lib")
    with pytest.raises(ConfigurationError, match=r"submodule `lib` of .* is not checked out.*\n.*submodule update"):
        paths(folder)
    (folder / ".dstackignore").write_text("lib/\n")
    assert paths(folder) == [".dstackignore", ".gitmodules"]


def test_a_pointer_of_git_lfs_is_refused_by_name(folder: Path) -> None:
    write(folder, "code.py")
    (folder / "model.bin").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12\n")
    with pytest.raises(ConfigurationError, match=r"only pointers here.*: `.*/model\.bin`\n.*`git lfs pull`"):
        entries(folder)
    (folder / ".dstackignore").write_text("*.bin\n")
    assert [entry.path for entry in entries(folder)] == [".dstackignore", "code.py"]


def test_a_checkout_that_git_does_not_trust_is_refused_with_the_way_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(folder, "init", "-q")
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    says = rf"Git cannot read `{folder}`: .*dubious ownership.*\n.*`git config .* safe.directory {folder}`"
    for read in (_folders.items_in, RemoteRepo.from_dir):
        with pytest.raises(ConfigurationError, match=says):
            read(folder)


def test_a_checkout_that_git_cannot_read_is_refused_in_gits_words(folder: Path) -> None:
    git(folder, "init", "-q")
    (folder / ".git" / "config").write_text("[core]\n\trepositoryformatversion = 99\n")
    with pytest.raises(ConfigurationError, match=r"Git cannot read `.*work`: .*repo version.*99"):
        paths(folder)


def with_submodule(folder: Path) -> None:
    """A checkout with a submodule at `lib`, of one file."""
    library = folder.parent / "library"
    write(library, "code.py")
    git(library, "init", "-q")
    git(library, "add", ".")
    git(library, "commit", "-qm", "x")
    git(folder, "init", "-q")
    git(folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")


def test_a_part_of_a_repository_follows_the_rules_above_it(folder: Path) -> None:
    git(folder, "init", "-q")
    write(folder, "part/a.py", "part/cache/x", "outside.py")
    (folder / ".gitignore").write_text("cache/\n")
    assert paths(folder / "part") == ["a.py"]


def test_a_folder_that_the_repository_around_it_ignores_is_sent_all_the_same(folder: Path) -> None:
    git(folder, "init", "-q")
    write(folder, "built/a.py", "built/b.log", "built/.gitignore")
    (folder / ".gitignore").write_text("built/\n")
    (folder / "built" / ".gitignore").write_text("*.log\n")
    assert paths(folder / "built") == [".gitignore", "a.py"]


def test_a_repository_inside_the_folder_is_sent_with_its_own_rules(folder: Path) -> None:
    git(folder, "init", "-q")
    write(folder, "a.py", "inner/b.py", "inner/c.log", "inner/.gitignore")
    git(folder / "inner", "init", "-q")
    (folder / "inner" / ".gitignore").write_text("*.log\n")
    assert paths(folder) == ["a.py", "inner/.gitignore", "inner/b.py"]


def test_without_git_rules_of_what_to_ignore_are_not_guessed_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    write(folder, "a.py", "sub/b.py", ".git/config")
    assert paths(folder) == ["a.py", "sub/b.py"]
    for rules in (".gitignore", ".dstackignore"):
        write(folder, rules)
        with pytest.raises(ConfigurationError, match=f"has a `{rules}`.*\n.*Install `git`"):
            paths(folder)
        (folder / rules).unlink()


def test_the_same_files_give_the_same_root_and_another_byte_another(folder: Path, tmp_path: Path) -> None:
    write(folder, "a.py", "sub/b.py")
    other = tmp_path / "other"
    write(other, "sub/b.py", "a.py")
    assert pack(_folders.items_in(folder)).root == pack(_folders.items_in(other)).root
    (other / "a.py").write_text("b")
    assert pack(_folders.items_in(folder)).root != pack(_folders.items_in(other)).root


def test_modes_sizes_and_links_are_kept(folder: Path) -> None:
    write(folder, "run.sh")
    (folder / "run.sh").chmod(0o4755)
    (folder / "big").write_bytes(b"x" * (CHUNK_BYTES + 1))
    (folder / "link").symlink_to("run.sh")
    (folder / "loop").symlink_to("loop2")
    big, link, loop, run = entries(folder)
    assert (len(big.chunks), big.size_bytes) == (2, CHUNK_BYTES + 1)
    assert (link.kind, link.target, loop.target) == ("link", "run.sh", "loop2")
    assert (run.kind, run.mode) == ("file", 0o755)


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "sub/../../secret"])
def test_a_link_out_of_the_folder_is_refused_by_name(folder: Path, target: str) -> None:
    write(folder, "sub/x")
    (folder / "stray").symlink_to(target)
    with pytest.raises(ConfigurationError, match=r"point out of the folder .*: `.*/stray`"):
        pack(_folders.items_in(folder))


def test_an_absolute_link_that_git_tracks_is_sent_as_a_link(folder: Path) -> None:
    git(folder, "init", "-q")
    (folder / "data").symlink_to("/mnt/data")
    git(folder, "add", "data")
    (link,) = entries(folder)
    assert (link.kind, link.target) == ("link", "/mnt/data")
    (folder / "own").symlink_to("/mnt/own")
    with pytest.raises(ConfigurationError, match=r"point out of the folder .*: `.*/own`"):
        entries(folder)


def test_a_pipe_is_left_out_and_does_not_hang(folder: Path) -> None:
    write(folder, "a")
    os.mkfifo(folder / "pipe")
    assert [entry.path for entry in entries(folder)] == ["a"]


def test_a_name_that_is_not_unicode_travels(folder: Path) -> None:
    with open(os.fsencode(folder) + b"/\xff", "wb"):
        pass
    assert [os.fsencode(entry.path) for entry in entries(folder)] == [b"\xff"]


def test_an_upload_brings_all_that_the_root_names(folder: Path, transport: Transport, store: BlobStore) -> None:
    write(folder, *(f"f{number}" for number in range(300)))
    seen: list[tuple[int, int]] = []
    root = upload(transport, "main", lambda: _folders.items_in(folder), lambda sent, total: seen.append((sent, total)))
    pages = page_hashes_of(store.blobs[root])
    whole = [entry for page in pages for entry in entries_of(store.blobs[page])]
    assert len(pages) > 1
    assert {entry.path: store.blobs[entry.chunks[0]] for entry in whole} == {
        f"f{number}": f"f{number}".encode() for number in range(300)
    }
    assert seen[-1][0] == seen[-1][1]


def test_one_changed_file_moves_that_file_its_page_and_the_root(
    folder: Path, transport: Transport, store: BlobStore
) -> None:
    write(folder, *(f"f{number}" for number in range(1000)))
    upload(transport, "main", lambda: _folders.items_in(folder))
    store.puts = 0
    (folder / "f500").write_text("changed")
    upload(transport, "main", lambda: _folders.items_in(folder))
    assert store.puts <= 5  # the chunk, the root, and a page that may split
    store.puts = 0
    upload(transport, "main", lambda: _folders.items_in(folder))
    assert store.puts == 0


def test_an_empty_folder_can_be_sent(folder: Path, transport: Transport, store: BlobStore) -> None:
    assert (
        store.blobs == {}
        and page_hashes_of(store.blobs[upload(transport, "main", lambda: _folders.items_in(folder))]) == []
    )


def test_a_file_that_changes_under_way_is_read_again(
    folder: Path, transport: Transport, server: FakeServer, store: BlobStore
) -> None:
    write(folder, "a")
    contents = iter(["first", "second"])

    def answer(asked: Asked) -> Answer:
        for content in contents:
            (folder / "a").write_text(content)
            break
        return store.answer(asked)

    server.answer = answer
    root = upload(transport, "main", lambda: _folders.items_in(folder))
    (page,) = page_hashes_of(store.blobs[root])
    (entry,) = entries_of(store.blobs[page])
    assert store.blobs[entry.chunks[0]] == (folder / "a").read_bytes()


def test_a_file_that_never_rests_is_told_by_name(
    folder: Path, transport: Transport, server: FakeServer, store: BlobStore
) -> None:
    write(folder, "busy")
    numbers = iter(range(100))

    def answer(asked: Asked) -> Answer:
        (folder / "busy").write_text(f"now {next(numbers)}")
        return store.answer(asked)

    server.answer = answer
    with pytest.raises(ConfigurationError, match=r"work/busy` does not stop changing while it is read"):
        upload(transport, "main", lambda: _folders.items_in(folder))


def test_one_changed_file_among_ten_thousand_sends_little(
    folder: Path, transport: Transport, server: FakeServer, store: BlobStore
) -> None:
    for number in range(100):
        (folder / f"a-folder-{number}").mkdir()
        for name in range(100):
            (folder / f"a-folder-{number}" / f"some-file-{name}.py").write_text(f"{number} {name}")
    sent_bytes = 0

    def answer(asked: Asked) -> Answer:
        nonlocal sent_bytes
        sent_bytes += len(asked.body) + HEADERS_BYTES
        return store.answer(asked)

    server.answer = answer
    upload(transport, "main", lambda: _folders.items_in(folder))
    worst = 0
    for number in (0, 17, 42, 99):
        (folder / f"a-folder-{number}" / "some-file-50.py").write_text(f"changed {number}")
        sent_bytes = 0
        upload(transport, "main", lambda: _folders.items_in(folder))
        worst = max(worst, sent_bytes)
    assert worst <= 64 << 10
    sent_bytes = 0
    upload(transport, "main", lambda: _folders.items_in(folder))
    assert sent_bytes <= 16 << 10


def test_an_upload_that_broke_off_goes_on_where_it_was(
    folder: Path, transport: Transport, server: FakeServer, store: BlobStore
) -> None:
    write(folder, *(f"f{number}" for number in range(200)))

    def breaks(asked: Asked) -> Answer:
        return Answer(400, b"{}") if store.puts >= 50 and asked.method == "PUT" else store.answer(asked)

    server.answer = breaks
    with pytest.raises(DstackError):
        upload(transport, "main", lambda: _folders.items_in(folder))
    there = store.puts
    server.answer = store.answer
    upload(transport, "main", lambda: _folders.items_in(folder))
    assert store.puts == len(store.blobs) and there >= 50
