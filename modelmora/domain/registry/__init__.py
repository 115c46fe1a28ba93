"""What is registered: models, their versions and artifacts, where they come from, and what may become of them."""
