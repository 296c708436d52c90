"""All tests. `installation` is what those share that run Hearken as a user does."""
