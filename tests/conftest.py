"""Every test runs with eight CPU devices, and with shapes and types of all annotations checked."""

import jax
from jaxtyping import install_import_hook

# Before any device is touched; raises when too late, unlike XLA_FLAGS, which is then ignored.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

install_import_hook("pcl_jax", "beartype.beartype")
