"""The data of a round: votes from the log, prompts, and the summary of older votes."""
