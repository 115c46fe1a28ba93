"""Load on the service: the benchmark harness."""
