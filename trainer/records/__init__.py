"""Records of rounds, published policies, and the metrics of training."""
