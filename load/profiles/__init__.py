"""Load by locust: users of each kind, profiles of how many of them come when, and a report of what they met."""
