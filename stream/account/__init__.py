"""What became of what was published: counted by ingest and processors, read from the broker."""
