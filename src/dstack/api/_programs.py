"""Local programs that the client runs, above all Git."""

import os
import re
import subprocess
from pathlib import Path

from dstack.errors import ConfigurationError

TIMEOUT_S = 60.0
WORDS_MAX = 500
CHANGED_HOST = "REMOTE HOST IDENTIFICATION HAS CHANGED"
"""OpenSSH's message between two banners, about a page long in all."""
CHANGED_HOST_SAID = "the key of the host has changed; if that is right, remove the old key"
NO_CHECKOUT = ("not a git repository", "must be run in a work tree")
"""Git's messages for a folder outside any checkout."""
HINTS = {
    "dubious ownership": "`git config --global --add safe.directory {folder}` makes Git trust it",
    "git-lfs": "Install `git-lfs`, or send the folder as it is: `--local` (`LocalRepo.from_dir`)",
    "filter": "Install the filter's program, or send the folder as it is: `--local` (`LocalRepo.from_dir`)",
    "config": "Correct the setting that Git names",
}
"""Hints, by a part of Git's message."""


class Unreadable(ConfigurationError):
    """The error for a checkout that Git cannot read, so that none of it can be sent."""


class Failed(Exception):
    """The error of a program that failed, with its message."""


def run(command: tuple[str, ...], folder: Path | None = None, env: dict[str, str] | None = None) -> bytes:
    """Run a program to its end, and return its output.

    Raises:
        Failed: the program is missing, failed, or did not end within a minute.
        ConfigurationError: the program is Git and is missing.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=True
        )
    except FileNotFoundError:
        if command[0] == "git":
            raise ConfigurationError("There is no `git` on this machine", hint="Install it") from None
        raise Failed(f"there is no `{command[0]}`") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"no answer within {TIMEOUT_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        raise Failed(_message_of(error.stderr.decode("utf-8", "replace")) or "it failed") from None
    return done.stdout


def _message_of(printed: str) -> str:
    """Return a program's error output on one line: its end in whole lines, where it is long.

    Examples:
        >>> _message_of("first\\n\\n  second\\n"), len(_message_of("a line of words\\n" * 100)) <= WORDS_MAX
        ('first; second', True)
    """
    if CHANGED_HOST in printed:
        remedy = re.search(r"ssh-keygen .* -R .*\S", printed)
        return f"{CHANGED_HOST_SAID}: `{remedy[0]}`" if remedy else CHANGED_HOST_SAID
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    while len("; ".join(lines)) > WORDS_MAX and len(lines) > 1:
        del lines[0]
    return "; ".join(lines)[-WORDS_MAX:]


def git(folder: Path, *arguments: str) -> bytes:
    """Run Git in a local folder, without the effects of `GIT_*` variables, and return its output.

    Raises:
        Failed, ConfigurationError: as for `run`.
    """
    # fsmonitor would run a program that the folder names; GIT_DIR and similar variables name another folder.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return run(("git", "-c", "core.fsmonitor=false", *arguments), folder, {**environ, "LC_ALL": "C.UTF-8"})


def git_or_refuse(folder: Path, *arguments: str) -> bytes:
    """Run Git in a local folder, and return its output.

    Raises:
        Unreadable: Git failed. Contains Git's message and a hint.
    """
    try:
        return git(folder, *arguments)
    except Failed as error:
        raise _refusal(folder, str(error)) from None


def root_of(folder: Path) -> Path | None:
    """Return the root of the checkout around a folder; None outside a checkout.

    Raises:
        Unreadable: Git cannot read the checkout.
        ConfigurationError: Git is missing.
    """
    try:
        return Path(os.fsdecode(git(folder, "rev-parse", "--show-toplevel")).removesuffix("\n"))
    except Failed as error:
        if any(words in str(error) for words in NO_CHECKOUT):
            return None
        raise _refusal(folder, str(error)) from None


def _refusal(folder: Path, said: str) -> Unreadable:
    hint = next((hint for words, hint in HINTS.items() if words in said), "Correct what Git names")
    return Unreadable(
        f"Git cannot read `{folder}`: {said.partition('; To add an exception')[0]}",
        hint=f"{hint.format(folder=folder)}; `--no-repo` leaves all files here",
    )


def paths_of(output: bytes) -> list[str]:
    """Return the paths that Git printed with `-z`."""
    return [os.fsdecode(path) for path in output.split(b"\0") if path]
