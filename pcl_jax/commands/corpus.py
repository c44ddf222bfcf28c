"""`pcl corpus`: count a corpus and list everything that is wrong with it."""

import json

from pcl_jax.commands import flags, terminal
from pcl_jax.commands.session import read_corpus
from pcl_jax.corpora.inspect import inspect, render


def show(command: flags.Corpus) -> int:
    """Print what is known of a corpus; return 1 if it is not usable."""
    inspection = inspect(read_corpus(command))
    if command.json:
        print(json.dumps(inspection.to_json(), indent=1))
    else:
        terminal.out.print(render(inspection))
    return 0 if inspection.usable else 1
