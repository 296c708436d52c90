"""From votes to a better policy."""
