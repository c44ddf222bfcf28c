"""Contrastive learning on tables: three views of the same customers, matched without labels.

    python examples/losses_on_tables.py

Row `l` of each table is the same customer. A table mixes the customer's hidden traits into its columns and
adds noise. One linear map per table learns to place the rows of one customer close together.
"""

import jax
import numpy as np
import optax

from pcl_jax.losses import pairwise_nt_xent, retrieval_accuracy

COLUMNS = {"bills": 40, "calls": 30, "visits": 20}
CUSTOMERS, TRAITS, STEPS = 512, 8, 300  # 512 customers to train on, and 512 to test on

rng = np.random.default_rng(0)
traits = rng.normal(size=(2 * CUSTOMERS, TRAITS))
train, test = {}, {}
for name, columns in COLUMNS.items():
    table = traits @ rng.normal(size=(TRAITS, columns)) + rng.normal(size=(2 * CUSTOMERS, columns))
    train[name], test[name] = np.float32(table[:CUSTOMERS]), np.float32(table[CUSTOMERS:])


def project(weights, tables):
    """Project each table to `[n, TRAITS]`; the losses take a dictionary of views."""
    return {name: tables[name] @ weights[name] for name in tables}


def loss(weights, tables):
    """Compute Eq. (3): for each ordered pair of tables, classify which of the n rows is the same customer."""
    return pairwise_nt_xent(project(weights, tables), temperature=0.1)


def report(title, weights):
    """Print retrieval@1 on customers that were not trained on: is the nearest row the same customer?"""
    accuracy = retrieval_accuracy(project(weights, test))
    pairs = ", ".join(f"{a} -> {b} {share:.2f}" for (a, b), share in accuracy.items())
    print(f"{title}: {pairs} (chance {1 / CUSTOMERS:.3f})")


weights = {name: np.float32(rng.normal(size=(columns, TRAITS))) for name, columns in COLUMNS.items()}
optimiser = optax.adam(1e-2)
state = optimiser.init(weights)


@jax.jit
def step(weights, state):
    """Take one step of Adam on all training customers."""
    updates, state = optimiser.update(jax.grad(loss)(weights, train), state)
    return optax.apply_updates(weights, updates), state


report("before", weights)
for _ in range(STEPS):
    weights, state = step(weights, state)
report("after", weights)
