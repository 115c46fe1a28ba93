"""Spans made and sent by OpenTelemetry's SDK."""
