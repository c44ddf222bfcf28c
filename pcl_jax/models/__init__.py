"""Encoders, projection heads and classifiers, as functions of parameters."""
