"""How much main memory can be had: never more than the machine has, nor than a group may."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from runai.engine.main_memory import available_memory

V1 = "sys/fs/cgroup/memory"
V2 = "sys/fs/cgroup"
Group = dict[str, str]


def v1(limit: int, used: int, cached: int = 0) -> Group:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {cached}\n",
    }


def v2(limit: int | str, used: int, cached: int = 0) -> Group:
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 7\ninactive_file {cached}\n",
    }


def system(root: Path, groups: str, **files: Group) -> Path:
    """A file system in which this process is in these groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for folder, said in files.items():
        path = root / folder
        path.mkdir(parents=True, exist_ok=True)
        for name, text in said.items():
            (path / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/a/b\n", {f"{V2}/a/b": v2(5000, 1000)}, 4000),
        ("0::/a/b\n", {f"{V2}/a/b": v2(5000, 4000, 900)}, 1900),
        ("0::/a/b\n", {f"{V2}/a/b": v2("max", 1000), f"{V2}/a": v2(3000, 2000)}, 1000),
        ("0::/a/b\n", {f"{V2}/a/b": v2(2000, 1900), f"{V2}/a": v2(3000, 2000)}, 100),
        ("0::/\n", {V2: v2(5000, 1000)}, 4000),  # within a container's own view
        ("7:blkio:/x\n4:memory:/a\n0::/\n", {f"{V1}/a": v1(5000, 1000, 10)}, 4010),
        ("4:cpu,memory:/docker/7\n", {V1: v1(5000, 1000)}, 4000),  # mounted as the root
        ("0::/a\n", {f"{V2}/a": v2(1000, 5000)}, 0),
    ],
)
def test_a_group_that_may_have_less_than_the_machine_decides(
    tmp_path: Path, groups: str, files: dict[str, Group], left: int
) -> None:
    assert available_memory(system(tmp_path, groups, **files)) == left


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/a\n", {f"{V2}/a": v2("max", 1000)}),
        ("0::/gone\n", {}),
        ("4:memory:/a\n", {f"{V1}/a": v1(2**63 - 4096, 1000)}),
        ("3:cpu:/a\n", {f"{V1}/a": v1(5000, 1000)}),
    ],
)
def test_without_a_limit_the_machine_decides(
    tmp_path: Path, groups: str, files: dict[str, Group]
) -> None:
    free = available_memory(system(tmp_path, groups, **files))
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_where_there_are_no_groups_the_machine_decides(tmp_path: Path) -> None:
    free = available_memory(tmp_path)
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_this_process_has_some() -> None:
    assert 0 < available_memory() <= psutil.virtual_memory().total
