"""The public keys that may open the way into a job: ed25519 alone, one a line, without options and comments."""

from collections.abc import Sequence

from dstack.agent.paths import JobFolder

KEY_BYTES_MAX = 2000
KEYS_MAX = 100
"""Of a job; the oldest go."""
KEY_TYPE = "ssh-ed25519"


def write_keys(folder: JobFolder, keys: Sequence[str]) -> None:
    """Let the holders of these keys in, and nobody else."""
    lines = [line for key in keys[-KEYS_MAX:] if (line := key_line(key)) is not None]
    draft = folder.root / ".authorized_keys"
    draft.touch(mode=0o600)
    draft.write_text("".join(f"{line}\n" for line in lines))
    draft.rename(folder.authorized_keys)


def key_line(key: str) -> str | None:
    """Type and key without options and comment; None where it is no ed25519 key."""
    parts = key.split()
    if len(key) > KEY_BYTES_MAX or len(parts) < 2 or parts[0] != KEY_TYPE or not key.isprintable():
        return None
    return f"{parts[0]} {parts[1]}"
