"""A page on this machine: listen, predict, label (extra `demo`)."""
