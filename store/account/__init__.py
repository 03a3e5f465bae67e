"""What became of events: counted once each, for whoever asks what happened to their data."""
