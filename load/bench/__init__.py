"""The benchmark harness: our service, a plain BentoML service and the reference loop, interleaved on one machine."""
