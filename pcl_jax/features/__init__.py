"""Features of the views over a corpus, on disk."""
