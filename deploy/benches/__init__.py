"""A module per benchmark, each with `run(*, brief: bool) -> BenchResult`, its baseline measured in the same run."""
