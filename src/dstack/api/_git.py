"""Questions to Git: about a local checkout, and about a remote with each of the available credentials."""

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from dstack.api import _places, _programs
from dstack.api._files import Item
from dstack.api._folders import items_in, items_of_submodule, left_out
from dstack.errors import ConfigurationError
from dstack.kit.git import git_environment, is_remote

NO_USER = "No user exists for uid"
"""OpenSSH's message for a user that is missing in the system's list."""
USER_HINT = "Add the user to the system's list (`/etc/passwd`), or use a token and an `https` URL"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a remote; both None for a public one."""

    private_key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder under Git, and its newest commit that the remote has too."""

    root: Path
    url: str
    branch: str | None
    commit: str


def checkout_of(folder: Path) -> Checkout:
    """Return the checkout around a folder.

    Raises:
        ConfigurationError: the folder is not in a checkout. Or the checkout has no remote, cannot be read, or shares
            no known commit with the remote.
    """
    root = _programs.root_of(folder)
    if root is None:
        raise ConfigurationError(f"`{folder}` is not under Git", hint="Send it as it is with `LocalRepo.from_dir`")
    remote, upstream = _remote_of(root)
    if remote is None:
        raise ConfigurationError(
            f"`{root}` has no remote",
            hint="Add one with `git remote add origin URL`, or send it with `LocalRepo.from_dir`",
        )
    commit = _newest_shared(root, remote, upstream)
    branch = upstream.removeprefix(f"refs/remotes/{remote}/") if upstream else _branch_of(root)
    return Checkout(root, _git(root, "remote", "get-url", remote), branch, commit)


def remote_url_of(folder: Path) -> str | None:
    """Return the URL of the remote that `checkout_of` uses; None without one.

    Raises:
        ConfigurationError: Git cannot read the checkout.
    """
    root = _programs.root_of(folder)
    remote = None if root is None else _remote_of(root)[0]
    return None if root is None or remote is None else _git(root, "remote", "get-url", remote)


def _remote_of(root: Path) -> tuple[str | None, str | None]:
    """Return the name of the checkout's remote, and the full name of its branch's upstream there."""
    is_on_branch = _branch_of(root) is not None
    upstream = is_on_branch and _asked(root, "rev-parse", "-q", "--verify", "--symbolic-full-name", "@{upstream}")
    if upstream and upstream.startswith("refs/remotes/"):  # and not a local branch
        return upstream.split("/")[2], upstream
    remotes = (_asked(root, "remote") or "").split()
    return "origin" if "origin" in remotes else next(iter(remotes), None), None


def _branch_of(root: Path) -> str | None:
    return _asked(root, "symbolic-ref", "-q", "--short", "HEAD")


def _newest_shared(root: Path, remote: str, upstream: str | None) -> str:
    """Return the newest commit of HEAD that the remote had at the last fetch or push."""
    if _asked(root, "rev-parse", "-q", "--verify", "HEAD") is None:
        raise ConfigurationError(
            f"`{root}` has no commit yet", hint="Commit and push first, or send it as it is: `--local`"
        )
    refs = (
        [upstream]
        if upstream
        else (_asked(root, "for-each-ref", "--format=%(refname)", f"refs/remotes/{remote}") or "").split()
    )
    bases = [base for ref in refs if (base := _asked(root, "merge-base", "HEAD", ref))]
    if not bases:
        raise ConfigurationError(
            f"None of the commits of `{root}` is known to be on its remote `{remote}`",
            hint="`git push` first, or send it as it is: `--local`",
        )
    newest = _asked(root, "rev-list", "--topo-order", "--max-count=1", *dict.fromkeys(bases))
    return newest or bases[0]


def changes_since(checkout: Checkout) -> Iterator[Item]:
    """Yield the differences of the working folder from a clone of the commit.

    These are changed, new, untracked and deleted files. The files of submodules and in Git LFS are included, since a
    clone lacks them.

    Raises:
        ConfigurationError: Git cannot compare, or a submodule is not checked out.
    """
    root = checkout.root
    untracked = _paths(root, "ls-files", "-o", "--exclude-standard", "-z")
    tracked = [line.partition("\t") for line in _paths(root, "ls-files", "-s", "-z")]
    stays = left_out(root, [*(path for *_, path in tracked), *untracked])
    submodules = [path for about, _, path in tracked if about.startswith("160000 ")]
    yield from (item for item in _compared(root, checkout.commit) if item.path not in stays)
    yield from _untracked(root, [path for path in untracked if path not in stays])
    yield from _parts(root, [path for path in submodules if path not in stays], stays)


def _compared(root: Path, commit: str) -> Iterator[Item]:
    words = _paths(root, "diff", "--name-status", "--no-renames", "--ignore-submodules", "-z", commit, "--")
    for status, path in zip(words[::2], words[1::2], strict=False):
        is_folder = (root / path).is_dir() and not (root / path).is_symlink()
        is_there = os.path.lexists(root / path) and not is_folder
        yield Item(path, root / path if status != "D" and is_there else None, root, is_tracked=True)


def _untracked(root: Path, paths: list[str]) -> Iterator[Item]:
    for path in paths:
        if path.endswith("/"):  # another repository inside this one
            yield from items_in(root / path, path)
        else:
            yield Item(path, root / path, root)


def _parts(root: Path, submodules: list[str], stays: set[str]) -> Iterator[Item]:
    """Yield the files of submodules and those in Git LFS, without the paths in `stays`."""
    for path in submodules:
        if os.path.lexists(root / path):
            yield from items_of_submodule(root, path)
    for path in _paths(root, "ls-files", "-z", ":(attr:filter=lfs)"):
        if path not in stays and os.path.lexists(root / path):
            yield Item(path, root / path, root, is_tracked=True)


def normal_url(url: str) -> tuple[str, str | None]:
    """Return a remote's URL without an HTTP user and password, and that password: a token, or None.

    Raises:
        ConfigurationError: the URL is not the URL of a remote.

    Examples:
        >>> normal_url("https://me:s3cret@example.com/a/b.git")
        ('https://example.com/a/b.git', 's3cret')
    """
    if not is_remote(url):
        raise ConfigurationError(
            f"`{url}` is not the URL of a remote repository", hint="Use one such as `https://example.com/team/project`"
        )
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme not in ("http", "https"):
        return url, None
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=place)), parts.password


def check_revision(branch: str | None, commit: str | None) -> None:
    """Check the form of a branch's name and of a commit's hash.

    Raises:
        ConfigurationError: one of them is malformed.
    """
    if branch and not (branch.isprintable() and " " not in branch and branch[0] != "-" and len(branch) <= 250):
        raise ConfigurationError(f"{branch!a} can be no branch", hint="Name one such as `main`")
    if commit and not re.fullmatch("[0-9a-f]{7,64}", commit):
        raise ConfigurationError(
            f"{commit!a} can be no commit", hint="Write its hash in 7 to 64 digits and small letters from a to f"
        )


def identity_of(url: str) -> str:
    """Return host and path of a remote, the same for HTTPS and SSH, with and without `.git`.

    Examples:
        >>> identity_of("git@example.com:a/b.git") == identity_of("https://example.com/a/b")
        True
    """
    host, path = _place_of(url)
    return f"{host.lower()}/{path.strip('/').removesuffix('.git')}"


def with_ssh(url: str) -> str:
    """Return the SSH URL of the same repository."""
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme not in ("http", "https"):
        return url
    return f"ssh://git@{parts.hostname}/{parts.path.strip('/')}"


def with_https(url: str) -> str:
    """Return the HTTPS URL of the same repository."""
    if "://" in url and urlsplit(url).scheme in ("http", "https"):
        return url
    place, path = _place_of(url)
    return f"https://{place.partition(':')[0]}/{path.strip('/')}"


def _place_of(url: str) -> tuple[str, str]:
    if "://" in url:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.hostname or ''}{port}", parts.path
    host, _, path = url.partition(":")
    return host.rpartition("@")[2], path


def refs_of(url: str, credentials: Credentials) -> dict[str, str]:
    """Return the refs of a remote, with the commit of each.

    Raises:
        ConfigurationError: the remote cannot be read with these credentials. Contains Git's message.
    """
    with tempfile.TemporaryDirectory(prefix="dstack-git-") as folder:
        env = git_environment(os.environ, Path(folder), url, credentials.private_key, credentials.token)
        try:
            listed = os.fsdecode(_programs.run(("git", "ls-remote", "--", url), Path(folder), env))
        except _programs.Failed as error:
            raise ConfigurationError(f"`{url}` cannot be read: {error}") from None
    pairs = (line.split("\t", 1) for line in listed.splitlines() if "\t" in line)
    return {ref: commit for commit, ref in pairs}


def find_credentials(url: str, given: Credentials) -> tuple[str, Credentials, dict[str, str]]:
    """Return the URL that opens the remote, the first credentials that work, and the remote's refs.

    In this order: no credentials; the given ones; the keys that SSH has for the host; the token of `gh`.

    Raises:
        ConfigurationError: no credentials open the remote. Contains Git's message for each.
    """
    said: dict[str, list[str]] = {}
    for name, at, credentials in _candidates(url, given):
        try:
            return at, credentials, refs_of(at, credentials)
        except ConfigurationError as error:
            said.setdefault(error.message, []).append(name)
    tried = "; ".join(f"with {' and with '.join(names)}: {message}" for message, names in said.items())
    tried = tried or "there is no key for it on this machine"
    raise ConfigurationError(
        f"No credentials open `{url}`: {tried}",
        hint="Give a key with `git_identity_file` (`--git-identity`), or a token with `oauth_token` (`--token`)",
    )


def _candidates(url: str, given: Credentials) -> Iterator[tuple[str, str, Credentials]]:
    if "://" in url and urlsplit(url).scheme in ("http", "https", "git"):
        yield "no credentials", url, Credentials()
    if given.private_key is not None:
        yield "the key that was given", with_ssh(url), Credentials(private_key=given.private_key)
    if given.token is not None:
        yield "the token that was given", with_https(url), Credentials(token=given.token)
    host = _place_of(url)[0].partition(":")[0]
    for path in _keys_for(host):
        if (key := read_key(path)) is not None:
            yield f"the key `{path}`", with_ssh(url), Credentials(private_key=key)
    if (token := _token_of_gh(host)) is not None:
        yield "the token of `gh`", with_https(url), Credentials(token=token)


def _keys_for(host: str) -> list[Path]:
    """Return the keys that SSH uses for a host: those of `~/.ssh/config`, or the default ones."""
    try:
        shown = os.fsdecode(_programs.run(("ssh", "-G", "--", host)))
    except _programs.Failed:
        return []
    lines = (line.partition(" ") for line in shown.splitlines())
    return [path for name, _, value in lines if name == "identityfile" and (path := _places.expanded(value)).is_file()]


def read_key(path: Path) -> str | None:
    """Return a private key; None if it has a passphrase, or the file is not a private key.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    try:
        _programs.run(("ssh-keygen", "-y", "-P", "", "-f", str(path)))
        return path.read_text("utf-8")
    except _programs.Failed as error:
        if NO_USER in str(error):
            raise ConfigurationError(f"OpenSSH cannot be used: {error}", hint=USER_HINT) from None
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The key `{path}` cannot be read: {error}") from error


def _token_of_gh(host: str) -> str | None:
    try:
        return os.fsdecode(_programs.run(("gh", "auth", "token", "--hostname", host))).strip() or None
    except _programs.Failed:
        return None


def _asked(folder: Path, *arguments: str) -> str | None:
    """Return Git's answer; None if Git fails or answers nothing."""
    try:
        return os.fsdecode(_programs.git(folder, *arguments)).strip("\n") or None
    except _programs.Failed:
        return None


def _git(folder: Path, *arguments: str) -> str:
    return os.fsdecode(_programs.git_or_refuse(folder, *arguments)).strip("\n")


def _paths(folder: Path, *arguments: str) -> list[str]:
    return _programs.paths_of(_programs.git_or_refuse(folder, *arguments))
