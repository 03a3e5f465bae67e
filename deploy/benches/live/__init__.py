"""A whole system under a steady load, for benchmarks that measure what a client sees."""
