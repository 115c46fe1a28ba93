"""What is done with events beside making them: carrying them."""
