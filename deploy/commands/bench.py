"""`anchorstream bench NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from deploy.benches.report import BenchResult

_FRESHNESS = Group("Of bench freshness")
_REPLAY = Group("Of bench replay")
_OPTIONS = {
    "freshness": {"users_per_second", "seconds", "scenarios"},
    "replay": {"users", "events", "scenarios", "broker"},
}


def bench(
    name: str = "all",
    *,
    brief: Annotated[bool, Parameter(negative="", help="A quick look: shorter runs, larger errors.")] = False,
    json: Annotated[str | None, Parameter(name="--json", help="Write the results to this file; - = stdout.")] = None,
    users_per_second: Annotated[int | None, Parameter(group=_FRESHNESS, help="Users updated a second; 50.")] = None,
    seconds: Annotated[float | None, Parameter(group=_FRESHNESS, help="How long; 300, briefly 30.")] = None,
    scenarios: Annotated[
        int | None, Parameter(group=_FRESHNESS, help="How many, 1 to 10; 4. Of bench replay too; 2.")
    ] = None,
    users: Annotated[int | None, Parameter(group=_REPLAY, help="How many; 9000, briefly 900.")] = None,
    events: Annotated[int | None, Parameter(group=_REPLAY, help="Of each user on average; 89.")] = None,
    broker: Annotated[
        Literal["local", "embedded"] | None, Parameter(group=_REPLAY, help="Where; local needs Java and Maven.")
    ] = None,
) -> None:
    """Measure one part (or all, briefly) next to a baseline in the same run; print a table with ratios."""
    from deploy import output
    from deploy.benches import report as benches
    from store.base import logs
    from store.base.errors import ConfigError

    logs.configure("bench", level="WARNING")
    chosen = benches.select(name)
    options: dict[str, Any] = {
        "users_per_second": users_per_second,
        "seconds": seconds,
        "scenarios": scenarios,
        "users": users,
        "events": events,
        "broker": broker,
    }
    options = {key: value for key, value in options.items() if value is not None}
    if wrong := options.keys() - _OPTIONS.get(name, set()):
        given = ", ".join(f"--{key.replace('_', '-')}" for key in options if key in wrong)
        of = " and ".join(f"`bench {one}`" for one, known in _OPTIONS.items() if wrong & known)
        raise ConfigError(f"bench {name} has no {given}", action=f"these are options of {of}")
    output.check_json_path(json)
    results: dict[str, Any] = {}
    for one in chosen:
        output.note(f"bench {one} …")
        found = benches.run(one, brief=brief or name == "all", **options)
        results[one] = found.to_dict()
        if json != "-":
            write(one, found)
    result = results if name == "all" else results[name]
    output.write_json_to(json, result)


def write(name: str, found: BenchResult) -> None:
    """Rows and ratios as tables."""
    from deploy import output

    columns = list(dict.fromkeys(key for row in found.rows for key in row))
    numbers = [c for c in columns if all(isinstance(row.get(c, 0), (int, float)) for row in found.rows)]
    rows = [[_figure(row.get(column)) for column in columns] for row in found.rows]
    output.write_table(columns, rows, title=name, right=numbers)
    if found.ratios:
        output.write_table(
            ("ratio", "value"), [(key, f"{value:.3g}") for key, value in found.ratios.items()], right=("value",)
        )


def _figure(value: Any) -> Any:
    """A number with the digits that mean something."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return value
