"""The reward model: features of replies, the likelihood of votes, and an ensemble of linear models."""
