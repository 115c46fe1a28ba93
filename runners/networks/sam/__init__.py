"""Networks of segment_anything."""
