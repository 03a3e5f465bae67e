"""What the demo shows at its end: a household, its embedding record and its nearest households."""

from __future__ import annotations

from collections import Counter

from deploy import output
from deploy.demo import in_common
from deploy.demo.journey import RawEvent, Slice, user_of
from deploy.demo.planting import Planted
from deploy.operate.answers import neighbors_of, record_of, write_neighbors, write_record
from deploy.operate.service_client import Service
from deploy.settings.config import Settings
from store.base.template import Template
from stream.events.content import scalar

NEIGHBORS = 5
SCENARIOS = 2
EVENTS = 8


def chosen(planted: Planted) -> str:
    """The household shown: the one with the most coupon redemptions, then events; ties by id."""
    return min(planted.users, key=lambda user: (*(-n for n in planted.weight(user)), user))


def household(service: Service, settings: Settings, households: Slice, planted: Planted) -> None:
    """Write it all to standard output."""
    user = chosen(planted)
    number = next(h for h in households.households if user_of(h) == user)
    mine = [event for event in households.events() if event["user_id"] == user]
    count = Counter(event["modality"] for event in mine)
    profile = next((event for event in mine if event["modality"] == "profile"), None)
    output.note("")
    output.write_pairs(
        {
            "household": number,
            "events": ", ".join(f"{n:,} {name}" for name, n in count.most_common()),
            "spent": f"{sum(e['amount'] for e in mine if e['modality'] == 'payment'):,.2f}",
            "profile": "unknown" if profile is None else ", ".join(_fields(profile)),
        }
    )
    latest = [event for event in mine if event["modality"] != "profile"][-EVENTS:]
    rows = [(output.moment(e["ts"]), e["modality"], _text(settings, e)) for e in latest]
    output.write_table(("time (UTC)", "event", "text"), rows)
    names = list(settings.scenarios)
    write_record(record_of(service, names[0], user))
    found = in_common.behaviours(households.events())
    for name in names[:SCENARIOS]:
        answer = neighbors_of(service, name, user, NEIGHBORS)
        write_neighbors(name, settings.scenarios[name].query, answer)
        nearest = [str(neighbor["user_id"]) for neighbor in answer["results"][0]["neighbors"]]
        columns = ("in common", "household", f"nearest {len(nearest)}", "all")
        output.write_table(columns, in_common.compare(found, user, nearest), right=columns[1:])


def _text(settings: Settings, event: RawEvent) -> str:
    modality = settings.modalities[event["modality"]]
    text = Template(modality.text).render(event, scalar)
    numbers = ", ".join(f"{name} {event[name]}" for name in modality.numbers if event.get(name))
    return f"{text} ({numbers})" if numbers else text


def _fields(profile: RawEvent) -> list[str]:
    own = {"event_id", "user_id", "ts", "modality"}
    return [f"{name} {value}" for name, value in profile.items() if name not in own]
