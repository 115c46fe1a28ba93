"""The consumer of events: inside an API worker where they stay in memory, else a process of its own."""
