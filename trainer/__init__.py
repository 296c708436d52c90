"""The trainer turns votes into a better policy."""
