"""`dstack init`: let runs use the files of this folder."""

import argparse

HELP = "let runs use the files of a folder or of a Git remote"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the repo and its credentials."""
    parser.add_argument("repo", nargs="?", default=".", metavar="DIR|URL", help="default: this folder")
    parser.add_argument("--local", action="store_true", help="send the folder as it is, even if it has a Git remote")
    parser.add_argument(
        "--branch", metavar="NAME", help="the branch or tag of a remote given by URL (default: its HEAD)"
    )
    parser.add_argument("--hash", metavar="COMMIT", help="the commit of a remote given by URL")
    parser.add_argument("-i", "--git-identity", metavar="FILE", help="the private key for the remote")
    parser.add_argument("-t", "--token", metavar="TOKEN", help="the token for the remote")


def run(arguments: argparse.Namespace) -> int:
    """Find working credentials, and store them in the project."""
    from dstack.api import LocalRepo, RemoteRepo
    from dstack.api._programs import Unreadable
    from dstack.cli import options, words
    from dstack.cli.clients import client_of
    from dstack.errors import ConfigurationError

    client = client_of(arguments)
    repo: LocalRepo | RemoteRepo
    if (remote := options.find_remote(arguments.repo, arguments.branch, arguments.hash)) is not None:
        repo = remote
    elif arguments.local:
        repo = LocalRepo.from_dir(arguments.repo)
    else:
        try:
            repo = RemoteRepo.from_dir(arguments.repo)
        except Unreadable:
            raise
        except ConfigurationError as error:
            repo = LocalRepo.from_dir(arguments.repo)
            words.say(f"{error.message}: its files are sent as they are")
    client.repos.init(repo, arguments.git_identity, arguments.token)
    what = f"`{repo.repo_url}`" if isinstance(repo, RemoteRepo) else f"the folder `{repo.folder}`"
    words.say(f"Runs of the project `{client.project}` may use {what}")
    return 0
