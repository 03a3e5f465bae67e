"""serve's HTTP service: embeddings, nearest users, lag, health, console."""
