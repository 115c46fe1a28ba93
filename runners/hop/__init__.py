"""Between an API worker and the runner workers: discovery, links, messages."""
