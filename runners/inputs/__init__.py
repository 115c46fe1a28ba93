"""Pictures and texts made into what a network takes, without torch."""
