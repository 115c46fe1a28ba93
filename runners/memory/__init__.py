"""What the pool puts together: entries, footprints, room, idleness."""
