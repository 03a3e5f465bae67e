"""Benchmarks: one module per name, each with `run(*, brief: bool) -> Report`, a baseline measured in the same run."""
