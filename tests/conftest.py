"""Every test runs with eight CPU devices, and with annotated shapes and types checked."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# Before jax is imported. Compiling is most of the tests' time: what one test compiled, or an earlier run of
# them, is not compiled again, in this process, the other or one that a test starts.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "programs")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# The tests run thousands of small programs once each. Examples, the demo and benchmarks run optimised ones.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# XLA's older generator of fused operations compiles in a third of the time. Newer XLA has none, and ends at
# a flag that it does not know.
if version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
os.environ["HF_HUB_OFFLINE"] = "1"  # a hub that cannot be reached costs a command 50 s before it says so

import jax
import numpy as np
import pytest
import soundfile
from jaxtyping import install_import_hook

# Before any device is touched; raises when too late, unlike XLA_FLAGS, which is then ignored.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

# Of all parts that take or give arrays, but for `runs.summary`, which reports call half a million times. Code
# without arrays is left to pyright.
PARTS = (
    *("arrays", "audio", "data", "demo", "devices", "evaluation", "features", "inference", "learn", "losses"),
    *("models", "rng", "runs.few_labels", "runs.ledger", "runs.reading", "runs.results", "training", "views"),
)
install_import_hook([f"pcl_jax.{part}" for part in PARTS], "beartype.beartype")

# No test pulls the plug: what they write need not reach the disk before they go on.
os.fsync = lambda descriptor: None

# Collecting garbage looks at all that is alive, modules, tests and programs: a tenth of the tests' time.
gc.set_threshold(100_000, 50, 100)


def pytest_collection_finish():
    """Let collections pass over what lives to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def corpora_folder() -> Path:
    """The folder of real speech, for the tests marked `corpora`."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("PCL_CORPORA", root.parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip(f"real speech not found at {folder}")
    return folder


@pytest.fixture
def emodb(tmp_path: Path) -> Path:
    """Ten speakers, four emotions, half a second of tone each, in EMO-DB's names."""
    root = tmp_path / "emodb"
    root.mkdir()
    rng = np.random.default_rng(0)
    for speaker in ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16"):
        for letter in "WNTF":
            tone = 0.1 * np.sin(np.arange(8000) * rng.uniform(0.05, 0.1)) + 0.01 * rng.normal(size=8000)
            soundfile.write(root / f"{speaker}a01{letter}a.wav", tone, 16_000)
    return root
