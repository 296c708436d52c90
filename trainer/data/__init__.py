"""Training data: votes from the log, prompts, a round's inputs and split, and the summary of older votes."""
