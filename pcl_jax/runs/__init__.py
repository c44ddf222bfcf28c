"""Runs: what is asked for, what is there already, and doing the rest."""
