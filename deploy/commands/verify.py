"""`anchorstream verify`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from deploy.commands.common import Common

if TYPE_CHECKING:
    from deploy.operate.verify import Verification
    from deploy.settings.config import Settings

AGAIN_SECONDS = 2.0


def verify(
    *,
    scenario: Annotated[str | None, Parameter(help="One scenario; default: all that are served.")] = None,
    url: Annotated[
        str | None, Parameter(help="Service; default: the one on the data directory, or its snapshot.")
    ] = None,
    attempts: Annotated[
        int, Parameter(validator=Number(gte=1), help="Look again so often, as users may be changing meanwhile.")
    ] = 3,
    common: Common | None = None,
) -> int:
    """Recompute all embeddings from scratch from the stored tokens, and compare them with what is served.

    Exit code 1 unless everything agrees: a cosine of at least 0.999 (vectors travel as float16), the same model and the
    same newest event, each computed for the time at which its record stands. Runs where the processors run, best when
    nothing is on the way. Users of partitions that other machines hold are counted and left out: run it there too.
    """
    from deploy import output

    common = common or Common()
    settings = common.settings()
    for attempt in range(1, attempts + 1):
        found, source = _once(settings, scenario, url, quiet=common.json)
        if found.ok or attempt == attempts:
            break
        output.note(f"attempt {attempt}: {_differences(found)}; looking again")
        time.sleep(AGAIN_SECONDS)
    if common.json:
        output.write_json({**found.to_dict(), "source": source})
    else:
        _write(found, source)
    return 0 if found.ok else 1


def _once(settings: Settings, scenario: str | None, url: str | None, *, quiet: bool) -> tuple[Verification, str]:
    from deploy import output
    from deploy.operate import served
    from deploy.operate.verify import compare, open_views
    from store.records.scenario_name import split

    data_dir = settings.store.data_dir.absolute()
    with ExitStack() as stack:
        views = open_views(stack, data_dir, settings.modalities, settings.kafka.topic_prefix)
        records, scenarios, source = served.load(settings, scenario, url=url)
        users = sum(1 for view in views.values() for _ in view.users())
        from encoder.forward.model_set import ModelSet  # last: importing torch takes seconds
        from store.base.errors import WeightsError
        from store.window.silence import SilenceTicks
        from stream.kafka.partitioner import partition_of

        needed = {split(name)[1] for name in scenarios}
        candidates = {name: settings.with_prompts(m) for name, m in settings.candidates.items() if name in needed}
        dim = next(iter(views.values())).dim
        encoder = ModelSet(settings.with_prompts(settings.model), candidates, settings.modalities, {}, dim)
        for name, of in scenarios.items():
            try:
                encoder.add_scenario(name, of)
            except WeightsError:  # a candidate cannot use a prompt that was tuned on the model: it has no embeddings
                if records[name]:
                    raise
                records = {other: found for other, found in records.items() if other != name}
        bar = stack.enter_context(output.progress("verify", quiet=quiet))
        found = compare(
            views.values(),
            records,
            encoder,
            is_here=lambda user: partition_of(user, settings.kafka.partitions) in views,
            ticks=SilenceTicks(settings.model.silence_days),
            on_users=lambda n: bar.update(n / max(users, 1), f"{n:,} of {users:,} users"),
        )
    return found, source


def _differences(found: Verification) -> str:
    counts = found.to_dict()
    kinds = ("mismatched", "missing", "extra", "wrong_summaries")
    return ", ".join(f"{counts[kind]:,} {kind.replace('_', ' ')}" for kind in kinds)


def _write(found: Verification, source: str) -> None:
    from deploy import output
    from deploy.operate.verify import MIN_COSINE

    counts = found.to_dict()
    output.write_pairs(
        {
            "compared with": source,
            "users": found.users,
            **({"of partitions held elsewhere": f"{found.elsewhere:,} users, left out"} if found.elsewhere else {}),
            "embeddings": found.compared,
            "mismatched": counts["mismatched"],
            "missing": counts["missing"],
            "extra": counts["extra"],
            "wrong summaries": counts["wrong_summaries"],
            "smallest cosine": f"{found.min_cosine:.7f} (agreement: at least {MIN_COSINE})",
            "time": output.duration(found.seconds),
        }
    )
    for kind, examples in counts["examples"].items():
        output.note(f"{kind}: {', '.join(examples)}{' …' if counts[kind] > len(examples) else ''}")
