"""`anchorstream topics`: our topics on the broker, and what mends them."""

from __future__ import annotations

from cyclopts import App

from deploy.commands.common import Common

app = App(name="topics", help="Our topics on the broker: whether they are as they must be, and mending them.")


@app.command(name="list")
def list_topics(*, common: Common | None = None) -> int:
    """Each topic with its partitions and what is wrong with it. Exit code 1 where something is."""
    from deploy import output
    from deploy.operate.topics import look

    common = common or Common()
    found = look(common.settings())
    if common.json:
        output.write_json({"topics": [topic._asdict() for topic in found]})
    else:
        output.write_table(
            ("topic", "partitions", ""),
            [(topic.name, topic.partitions, "wrong, see below" if topic.fault else "as it must be") for topic in found],
            right=("partitions",),
        )
        for topic in found:
            if topic.fault:
                output.note_result(topic.fault if topic.partitions else f"{topic.name} {topic.fault}")
    return int(any(topic.fault for topic in found))


@app.command(name="mend")
def mend_topics(*, common: Common | None = None) -> int:
    """Set settings that differ, make anew what nothing was ever written to, create what is missing; loses no data.

    What only a person can mend is an error, with what to do. A local Kafka that does not run is started for it.
    """
    from deploy import output
    from deploy.operate.topics import mend_all

    common = common or Common()
    done = mend_all(common.settings())
    if common.json:
        output.write_json({"done": done})
    else:
        for line in done or ["nothing to mend"]:
            output.note_result(line)
    return 0
