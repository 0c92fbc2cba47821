"""What single viewers need of the server."""
