"""Training: pre-train on a fold's speech, then fine-tune or probe on its few labels."""
