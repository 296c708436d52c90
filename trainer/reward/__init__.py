"""The reward model: features of replies, the likelihood of votes, and the Bayesian ensemble."""
