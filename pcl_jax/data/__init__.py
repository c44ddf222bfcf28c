"""One fold, ready to train."""
