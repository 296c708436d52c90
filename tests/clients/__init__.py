"""Other people's clients, each unchanged, against a real service: part of `make test-full`."""
