"""A finished model in use: its folder, predictions on new audio, vectors for other tools."""
