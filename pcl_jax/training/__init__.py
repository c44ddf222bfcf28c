"""Pre-train on a fold's speech, fine-tune on its few labels, compare the two."""
