"""What carries events: memory within one process, Kafka between them, or nothing."""
