"""The messages of local programs that fail."""

import pytest

from dstack.api import _programs

BANNER = "@" * 59
CHANGED = f"""\
{BANNER}
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
{BANNER}
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Please contact your system administrator.
Offending ED25519 key in /home/ada/.ssh/known_hosts:1
  remove with:
  ssh-keygen -f '/home/ada/.ssh/known_hosts' -R 'example.com'
Host key verification failed.
fatal: Could not read from remote repository.
"""


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("one\n\n  two\n", "one; two"),
        ("x" * 300 + "\n" + "y" * 300 + "\n", "y" * 300),
        (
            CHANGED,
            "the key of the host has changed; if that is right, remove the old key: "
            "`ssh-keygen -f '/home/ada/.ssh/known_hosts' -R 'example.com'`",
        ),
    ],
    ids=["lines", "long lines", "another key of a host"],
)
def test_message_of_a_failed_program_is_readable(printed: str, message: str) -> None:
    with pytest.raises(_programs.Failed) as caught:
        _programs.run(("sh", "-c", 'printf %s "$1" >&2; exit 1', "sh", printed))
    assert str(caught.value) == message
