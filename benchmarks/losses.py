"""Benchmark of the time and peak memory of loss and gradient, against optax, open_clip and pml.

    python benchmarks/losses.py --torch-python PYTHON [--rows 128 1024 4096 16384] [--views 2 3]

`--torch-python` is the interpreter of an environment with `torch` and `pytorch-metric-learning`, for example
made by `uv venv torch && uv pip install --python torch torch==2.13.0 pytorch-metric-learning`. Without it the
torch columns are left out. It takes about ten minutes on 2 cores and prints a Markdown table.

The compared losses, all in float32 with d = 128, temperature 0.07 and the gradient with respect to the rows:

- whole, blocked: `pairwise_nt_xent`, without and with `block_size=512`;
- optax: `optax.losses.ntxent` on the rows of all views (SimCLR's loss, the only such loss in optax). It
  compares k n rows with each other: for two views, twice the similarities at equal n;
- pml: `pytorch_metric_learning.losses.NTXentLoss(0.07)`, likewise;
- clip: the formula of open_clip's `ClipLoss` in torch, summed over the pairs of views.

Each implementation runs in a separate process. The processes take turns, one measurement at a time, so that
other load on the machine affects all of them. The time is the minimum over the rounds. The memory is the
growth of the process's peak resident set during its first step, then XLA's figure for its temporary buffers.
A size that needs more than `--limit-gib` is not run, and the table shows its need instead.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

D, TEMPERATURE = 128, 0.07


def random_views(k, n):
    """Return k views `[k, n, D]` that agree in part."""
    import numpy as np

    rng = np.random.default_rng(0)
    return (rng.normal(size=(1, n, D)) + rng.normal(size=(k, n, D))).astype("float32")


def jax_steps():
    """Return a function that compiles the step of a JAX loss and tells its temporary memory in bytes."""
    import jax
    import jax.numpy as jnp
    import optax

    from pcl_jax.losses import pairwise_nt_xent

    def ntxent(views):
        labels = jnp.tile(jnp.arange(views.shape[1]), views.shape[0])
        return optax.losses.ntxent(views.reshape(-1, D), labels, TEMPERATURE)

    losses = {
        "whole": lambda v: pairwise_nt_xent(v, temperature=TEMPERATURE),
        "blocked": lambda v: pairwise_nt_xent(v, temperature=TEMPERATURE, block_size=512),
        "optax": ntxent,
    }

    def prepare(name, k, n):
        views = random_views(k, n)
        compiled = jax.jit(jax.value_and_grad(losses[name])).lower(views).compile()
        analysis = compiled.memory_analysis()
        temporary = analysis.temp_size_in_bytes if analysis else 0
        views = jax.device_put(views)
        return lambda: jax.block_until_ready(compiled(views)), temporary

    return prepare


def torch_steps():
    """Return a function that prepares the step of a torch loss; its temporary memory is not known."""
    import torch  # pyright: ignore[reportMissingImports]
    import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
    from pytorch_metric_learning.losses import NTXentLoss  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def clip(views):
        u = F.normalize(views, dim=2)
        labels = torch.arange(views.shape[1])
        total = 0
        for i in range(len(u)):
            for j in range(i + 1, len(u)):
                logits = u[i] @ u[j].T / TEMPERATURE
                total = total + (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        return total

    metric = NTXentLoss(TEMPERATURE)

    def pml(views):
        return metric(views.reshape(-1, D), torch.arange(views.shape[1]).repeat(len(views)))

    losses = {"clip": clip, "pml": pml}

    def prepare(name, k, n):
        views = torch.tensor(random_views(k, n), requires_grad=True)

        def step():
            views.grad = None
            losses[name](views).backward()

        return step, None

    return prepare


def serve(family):
    """Answer requests, one JSON line each, on standard input and output."""
    prepare = {"jax": jax_steps, "torch": torch_steps}[family]()
    steps = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = request["name"], request["k"], request["n"]
        answer = {}
        if key not in steps:
            steps.clear()
            step, answer["temporary"] = prepare(*key)
            if request.get("run", True):
                peak_before = resident_peak()
                step()
                answer["resident"] = resident_peak() - peak_before
                steps[key] = step
        else:
            answer["seconds"] = minimum_time(steps[key])
        print(json.dumps(answer), flush=True)


def minimum_time(step, budget_s=0.3):
    """Return the minimum time of as many steps as fit into `budget_s`, at least one."""
    begin, least = time.perf_counter(), float("inf")
    while True:
        start = time.perf_counter()
        step()
        least = min(least, time.perf_counter() - start)
        if time.perf_counter() - begin > budget_s:
            return least


def resident_peak():
    """Return the peak resident set of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Worker:
    """A process that measures one implementation on request."""

    def __init__(self, python, family, name):
        """Start the process with an interpreter, for a family: "jax" or "torch"."""
        self.name = name
        self.process = subprocess.Popen(
            [python, __file__, "--serve", family], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request):
        """Send a request and return the answer; None if the process died, for example out of memory."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"name": self.name, **request}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else None

    def close(self):
        """End the process."""
        self.process.communicate()


def torch_bytes(name, k, n):
    """Estimate the least memory that a torch loss holds, which torch cannot tell in advance."""
    if name == "clip":
        return 4 * 5 * (k * (k - 1) // 2) * n * n  # logits and softmax of both directions, and a gradient
    # Measured: four float32 matrices of all positive pairs by all negative pairs, cubic in n.
    return 4 * (k * (k - 1) * n) * (k * n * (k * n - k))


def measure(python, family, name, k, n, limit):
    """Start and warm up a worker; return it and its memory, or None and its need if over the limit."""
    worker = Worker(python, family, name)
    is_jax = family == "jax"
    compiled = worker.ask(k=k, n=n, run=False) if is_jax else None
    needs = compiled["temporary"] if compiled else torch_bytes(name, k, n)
    if needs > limit:
        worker.close()
        return None, needs
    answer = worker.ask(k=k, n=n)
    if answer is None:
        worker.close()
        return None, needs
    return worker, {"temporary": needs if is_jax else None, "resident": answer["resident"]}


def main():
    """Parse the flags and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[128, 1024, 4096, 16384])
    parser.add_argument("--views", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--torch-python")
    parser.add_argument("--limit-gib", type=float, default=14, help="per process; up to three run at a time")
    parser.add_argument("--seconds", type=float, default=10, help="for the rounds of one line of the table")
    parser.add_argument("--serve", choices=["jax", "torch"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    implementations = [("jax", "whole"), ("jax", "blocked"), ("jax", "optax")]
    if arguments.torch_python:
        implementations += [("torch", "clip"), ("torch", "pml")]
    names = [name for _, name in implementations]
    print("| k | n | " + " | ".join(f"{name}: time, memory" for name in names) + " |")
    print("|---|---|" + "---|" * len(names))
    for k in arguments.views:
        for n in arguments.rows:
            print(table_row(k, n, implementations, arguments), flush=True)


def table_row(k, n, implementations, arguments):
    """Measure all implementations at one size and return a row of the table."""
    limit = arguments.limit_gib * 2**30
    workers, memory = {}, {}
    for family, name in implementations:
        python = arguments.torch_python if family == "torch" else sys.executable
        workers[name], memory[name] = measure(python, family, name, k, n, limit)
    seconds = {name: [] for name, worker in workers.items() if worker}
    start, rounds = time.perf_counter(), 0
    while rounds < 3 or (time.perf_counter() - start < arguments.seconds and rounds < 100):
        for name in seconds:
            seconds[name].append(workers[name].ask(k=k, n=n)["seconds"])
        rounds += 1
    for worker in workers.values():
        if worker:
            worker.close()
    cells = []
    for _, name in implementations:
        if name not in seconds:
            cells.append(f"not run: over {format_bytes(memory[name])}")
        else:
            cells.append(
                table_cell(
                    min(seconds[name]), min(seconds["whole"]) if "whole" in seconds else None, memory[name]
                )
            )
    return f"| {k} | {n} | " + " | ".join(cells) + " |"


def table_cell(seconds, reference, memory):
    """Format a time, its ratio to `reference` and the memory."""
    ratio = f" ({seconds / reference:.2g}x)" if reference else ""
    text = f"{1e3 * seconds:.3g} ms{ratio}, {format_bytes(memory['resident'])}"
    if memory["temporary"] is not None:
        text += f", XLA {format_bytes(memory['temporary'])}"
    return text


def format_bytes(n):
    """Format a number of bytes with its unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.3g} TiB"


if __name__ == "__main__":
    main()
