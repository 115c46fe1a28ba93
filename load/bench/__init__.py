"""The benchmark harness: our service, its rivals and the reference loop, interleaved on one machine; and endurance."""
