"""Importing the losses loads jax, numpy and jaxtyping only."""

import subprocess
import sys

PROGRAM = """
import sys
import jax
before = set(sys.modules)
import pcl_jax.losses
print(*{name for name in set(sys.modules) - before if not name.startswith("_")})
"""


def test_importing_the_losses_loads_no_heavy_dependency_and_no_other_part_of_the_package():
    """In a new process, because the tests have loaded everything. What jax itself loads does not count."""
    modules = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    ).stdout.split()
    third_party = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
    assert third_party <= {"pcl_jax", "jax", "jaxlib", "jaxtyping", "numpy"}
    package = {name for name in modules if name.startswith("pcl_jax.")}
    assert "pcl_jax.losses" in package
    assert all(name.startswith("pcl_jax.losses") for name in package)
