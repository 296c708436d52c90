"""The plan estimates a round's memory and time before it runs."""
