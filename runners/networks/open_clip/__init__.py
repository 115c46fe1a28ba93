"""Networks of open_clip_torch."""
