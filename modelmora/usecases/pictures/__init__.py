"""What is done with pictures: taken in, embedded and indexed, found again, removed."""
