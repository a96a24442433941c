"""Learning: the federated fit beside the pooled fit of the same objective, on frozen splits."""
