"""What a control group uses, read from made-up trees of files."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from dstack.agent.metrics.groups import find_group
from dstack.agent.metrics.usage import Usage

PID, ID = 4242, "c0ffee"
MIB = 1 << 20

V1 = {
    "cgroup": f"5:memory:/docker/{ID}\n4:cpu,cpuacct:/docker/{ID}\n1:name=systemd:/docker/{ID}\n",
    "mounts": """\
30 24 0:26 / {root}/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd
31 24 0:27 / {root}/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 24 0:28 / {root}/memory rw,nosuid - cgroup cgroup rw,memory
20 1 8:1 / / rw - ext4 /dev/sda1 rw
""",
    f"cpu,cpuacct/docker/{ID}/cpuacct.usage": "2500000000\n",
    f"memory/docker/{ID}/memory.usage_in_bytes": f"{300 * MIB}\n",
    f"memory/docker/{ID}/memory.stat": f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n",
}
V2 = {
    "cgroup": f"0::/system.slice/docker-{ID}.scope\n",
    "mounts": "30 24 0:26 / {root} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
    f"system.slice/docker-{ID}.scope/cpu.stat": "usage_usec 2500000\nuser_usec 2000000\n",
    f"system.slice/docker-{ID}.scope/memory.current": f"{300 * MIB}\n",
    f"system.slice/docker-{ID}.scope/memory.stat": f"anon 5\nfile 6\ninactive_file {100 * MIB}\n",
}
BOTH = V1 | {
    "cgroup": V1["cgroup"] + f"0::/docker/{ID}\n",
    "mounts": "29 24 0:25 / {root}/unified rw - cgroup2 cgroup2 rw\n" + V1["mounts"],
    f"unified/docker/{ID}/cgroup.procs": "",
}
IN_A_CONTAINER = V1 | {
    "cgroup": V1["cgroup"].replace("/docker/", "/docker/outer/docker/"),
    "mounts": V1["mounts"].replace(" / {root}", " /docker/outer {root}"),
}


def tree(folder: Path, files: Mapping[str, str]) -> Path:
    """A made-up `/proc`, and control groups mounted beside it."""
    root, proc = folder / "groups", folder / "proc"
    (proc / str(PID)).mkdir(parents=True)
    (proc / "self").mkdir()
    for name, text in files.items():
        match name:
            case "cgroup":
                path = proc / str(PID) / "cgroup"
            case "mounts":
                path = proc / "self" / "mountinfo"
            case _:
                path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{root}", str(root)))
    return proc


@pytest.mark.parametrize("files", [V1, V2, BOTH, IN_A_CONTAINER], ids=["v1", "v2", "both", "in a container"])
def test_cpu_time_and_memory_without_files_that_would_be_dropped(tmp_path: Path, files: Mapping[str, str]) -> None:
    group = find_group(PID, ID, tree(tmp_path, files))
    assert group is not None
    assert group.read() == Usage(2.5, 200.0)


@pytest.mark.parametrize(
    "change",
    [
        {"cgroup": "0::/user.slice/session-1.scope\n"},
        {"cgroup": f"0::/../../docker-{ID}.scope\n"},
        {"mounts": "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"},
        {"mounts": "30 24 0:26 /docker/other {root} rw,nosuid - cgroup2 cgroup2 rw\n"},
    ],
    ids=["the number is another process's", "it is outside of what we see", "nothing is mounted", "another part is"],
)
def test_a_group_that_cannot_be_seen_is_none(tmp_path: Path, change: dict[str, str]) -> None:
    assert find_group(PID, ID, tree(tmp_path, V2 | change)) is None


def test_no_process_has_no_group(tmp_path: Path) -> None:
    assert find_group(1, ID, tree(tmp_path, V2)) is None


def test_what_one_controller_does_not_tell_is_none_and_the_rest_is_told(tmp_path: Path) -> None:
    without = {name: text for name, text in V2.items() if not name.endswith("memory.current")}
    group = find_group(PID, ID, tree(tmp_path, without))
    assert group is not None and group.read() == Usage(2.5, None)


def test_a_group_that_is_gone_meanwhile_tells_nothing(tmp_path: Path) -> None:
    group = find_group(PID, ID, tree(tmp_path, V1))
    assert group is not None
    (tmp_path / "groups").rename(tmp_path / "gone")
    assert group.read() == Usage(None, None)
