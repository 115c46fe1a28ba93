"""What trains the models this repository ships: never imported by the server."""
