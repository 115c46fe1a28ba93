"""What the batcher puts together: items, lanes, one batch."""
