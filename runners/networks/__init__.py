"""What runs the networks: torch, weights, devices' streams."""
