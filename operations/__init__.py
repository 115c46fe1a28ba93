"""What operators do to a deployment beside its servers."""
