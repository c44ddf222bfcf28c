"""Learning from a user's own table: honest numbers within few labels, and a model folder."""
