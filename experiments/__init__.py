"""One module per item of the paper: `python -m experiments.NAME --help`."""
