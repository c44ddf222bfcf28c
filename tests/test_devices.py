"""Memory as the kernel limits it: made-up files of control groups."""

import os
from pathlib import Path

import pytest

from pcl_jax.devices import device_memory, mesh, process_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE),
        ({"proc/self/cgroup": "0::/"}, MACHINE),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"}, MACHINE),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "1000"}, 1000),
        (
            {
                "proc/self/cgroup": "0::/slurm/job_7",
                "sys/fs/cgroup/slurm/memory.max": "2000",
                "sys/fs/cgroup/slurm/job_7/memory.max": "3000",
            },
            2000,
        ),
        (
            {
                "proc/self/cgroup": "12:cpu:/a\n4:cpuset,memory:/docker/x:y\n0::/",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000",
                "sys/fs/cgroup/memory/docker/x:y/memory.limit_in_bytes": "4000",
            },
            4000,
        ),
        # In a container: the path is the host's, and the limit lies at the top.
        ({"proc/self/cgroup": "0::/kubepods/pod1", "sys/fs/cgroup/memory.max": "6000"}, 6000),
        # Version 1 writes a huge number for no limit.
        (
            {
                "proc/self/cgroup": "4:memory:/",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            MACHINE,
        ),
    ],
)
def test_a_process_may_use_the_least_of_what_its_control_groups_and_the_machine_have(
    tmp_path, files, expected
):
    assert process_memory(write(tmp_path, files)) == expected


def test_cpu_devices_share_the_memory_of_the_process():
    assert device_memory(mesh(4)) == process_memory() // 4
