"""Which room may import which, what the pure ones keep out, and that none is crowded. docs/architecture.md draws it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from deploy.cli import COMMANDS

ROOT = Path(__file__).parents[2]
HALLS = ("store", "encoder", "stream", "deploy")
MAX_FILES = 18

# A room's line: what it may import beside itself. A hall's own modules (`stream/topics.py`) are its ground floor.
ROOMS = {
    "store/base": "",
    "store/records": "store/base",
    "store/account": "",
    "store/window": "store/base store/account",
    "store/buffer": "store/base store/account store/window",
    "store/index": "store/base store/records",
    "store/http": "store/base store/records store/index",
    "store/http/wire": "store/base store/http",
    "stream": "store/base",
    "stream/events": "stream store/base",
    "stream/kafka": "stream store/base",
    "stream/reading": "stream stream/kafka store/base",
    "stream/token_log": "stream stream/kafka stream/reading store/base store/buffer store/window",
    "stream/raw_topics": "stream stream/kafka stream/reading store/base",
    "stream/ingest": "stream stream/events stream/kafka stream/raw_topics store/base",
    "stream/processor": "stream stream/events stream/kafka stream/token_log store/base store/account store/buffer"
    " store/window",
    "stream/replay": "stream stream/events stream/ingest store/base",
    "stream/dead_letters": "stream stream/events stream/kafka stream/reading store/base",
    "stream/scenarios": "stream stream/kafka stream/reading store/base store/records store/index",
    "stream/lag": "stream stream/kafka stream/scenarios store/base store/records",
    "stream/account": "stream stream/kafka stream/lag stream/reading stream/token_log store/base store/account"
    " store/window",
    "stream/serve": "stream stream/events stream/kafka stream/reading stream/raw_topics stream/scenarios store/base"
    " store/records store/index",
    "encoder/statistics": "store/base store/window",
    "encoder/model": "encoder/statistics store/base store/records",
    "encoder/forward": "encoder/statistics encoder/model store/base store/records store/window",
    "encoder/worker": "encoder/model encoder/forward stream stream/kafka stream/reading stream/token_log store/base"
    " store/records store/buffer store/window",
    "encoder/learning": "encoder/learning/tasks encoder/statistics stream stream/events stream/processor store/base"
    " store/window",
    "encoder/learning/tasks": "",
    "encoder/learning/baselines": "encoder/learning/tasks store/base",
    "encoder/learning/user_u": "encoder/learning encoder/model encoder/forward encoder/statistics store/base"
    " store/window",
    "encoder/learning/pretraining": "encoder/learning/tasks encoder/learning/baselines encoder/learning/user_u"
    " encoder/model encoder/forward encoder/statistics store/base store/window",
    "encoder/learning/sequences": "encoder/learning encoder/learning/tasks encoder/learning/baselines store/base"
    " store/window",
    "encoder/learning/evaluation": "encoder/learning encoder/learning/tasks encoder/learning/baselines"
    " encoder/learning/sequences encoder/forward encoder/statistics store/base store/records store/window",
    "encoder/learning/tuning": "encoder/learning encoder/learning/tasks encoder/learning/baselines"
    " encoder/learning/evaluation encoder/model encoder/forward store/base store/window",
    "deploy": "store/base",
    "deploy/settings": "stream encoder/model store/base store/records",
    "deploy/kafka": "stream stream/kafka store/base",
    "deploy/brokers": "deploy/settings stream stream/kafka store/base",
    "deploy/checks": "deploy deploy/settings deploy/kafka deploy/brokers stream stream/events stream/kafka"
    " stream/reading"
    " encoder/model store/base store/buffer store/records store/window",
    "deploy/run": "deploy deploy/settings deploy/kafka deploy/brokers stream encoder store",
    "deploy/operate": "deploy deploy/settings deploy/kafka deploy/brokers deploy/checks stream store",
    "deploy/init": "deploy/settings deploy/checks deploy/operate stream stream/events stream/kafka stream/replay"
    " store/base",
    "deploy/demo": "deploy deploy/settings deploy/run deploy/operate stream store",
    "deploy/learning": "deploy/settings deploy/brokers deploy/demo stream encoder store",
    "deploy/benches/live": "deploy/settings deploy/run deploy/operate stream store",
    "deploy/benches": "deploy deploy/settings deploy/brokers deploy/operate deploy/benches/live stream encoder store",
    "deploy/commands": "deploy deploy/settings deploy/kafka deploy/brokers deploy/run deploy/operate deploy/init"
    " deploy/demo deploy/learning deploy/benches stream encoder store",
}
WHOLE = {
    "deploy/run", "deploy/operate", "deploy/demo", "deploy/learning", "deploy/benches", "deploy/benches/live",
    "deploy/commands",
}  # fmt: skip
"""These put everything together: where they name another hall, they mean all its rooms."""

# Rules of the domain: bytes, clocks and verdicts in, decisions out.
PURE = (
    "store/account",
    "store/window",
    "stream/commit_metadata.py",
    "stream/raw_counts.py",
    *(f"stream/{name}.py" for name in ("broker_properties", "clock", "rejection", "dead_letter", "topics")),
    "stream/events",
    "stream/ingest/in_flight.py",
    "stream/kafka/backlog.py",
    "stream/account/report.py",
    "stream/lag/report.py",
    "stream/lag/status.py",
    "stream/token_log/ownership.py",
    *(f"deploy/init/{name}.py" for name in ("words", "columns", "times", "users", "event_ids", "kinds", "content")),
    *(f"deploy/init/{name}.py" for name in ("windows", "table", "proposal", "scenarios", "document")),
    "encoder/forward/chunks.py",
    "encoder/statistics",
    "encoder/learning/tasks",
    "encoder/learning/baselines",
    "encoder/learning/windows.py",
    "encoder/learning/sequences/steps.py",
    *(f"encoder/learning/evaluation/{name}.py" for name in ("statistic_groups", "noise", "data_set")),
    *(f"encoder/worker/{name}.py" for name in ("scheduler", "held_users", "turns")),
    "stream/ingest/behind.py",
    "stream/processor/arrivals.py",
    "deploy/run/supervision.py",
)
IMPURE = (
    "stream/commit_metadata.py",
    "confluent_kafka",
    "faust",
    "aiokafka",
    "torch",
    "transformers",
    "prometheus_client",
    "structlog",
    "rocksdict",
)
IMPURE_OURS = ("store.base.metrics", "store.base.logs", "store.base.fault", "stream.kafka.client")


def modules() -> dict[str, Path]:
    """Every module of the four halls by its dotted name."""
    paths = (path for hall in HALLS for path in (ROOT / hall).rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imports(path: Path) -> set[str]:
    """What a module imports, also inside its functions: modules of ours in full, others as written."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in MODULES else node.module for name in names}
    return found


def room_of(path: Path) -> str:
    return path.parent.relative_to(ROOT).as_posix()


def allowed(room: str, other: str) -> bool:
    names, hall = ROOMS[room].split(), other.split("/")[0]
    return other == room or other in names or (room in WHOLE and hall != "deploy" and hall in names)


def test_every_room_has_a_line() -> None:
    assert {room_of(path) for path in MODULES.values() if path.stat().st_size} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for path in (path for path in MODULES.values() if room_of(path) == room):
        ours = {name: room_of(MODULES[name]) for name in imports(path) if name in MODULES}
        assert not {name for name, other in ours.items() if not allowed(room, other)}, path


def test_a_room_may_import_nothing_that_it_does_not() -> None:
    for room in ROOMS.keys() - WHOLE:
        own = [path for path in MODULES.values() if room_of(path) == room]
        used = {room_of(MODULES[name]) for path in own for name in imports(path) if name in MODULES}
        assert set(ROOMS[room].split()) <= used, room


def test_the_rules_allow_no_circle() -> None:
    """Floors: a room stands on rooms that stand already."""
    standing: set[str] = set()
    while later := ROOMS.keys() - standing:
        now = {r for r in later if all(o in standing or o == r or not allowed(r, o) for o in ROOMS)}
        assert now, f"a circle among {sorted(later)}"
        standing |= now


def test_pure_modules_know_no_kafka_no_torch_no_metrics() -> None:
    for place in PURE:
        paths = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).glob("*.py"))
        assert paths
        for path in paths:
            names = imports(path)
            assert not {n for n in names if n.split(".")[0] in IMPURE or n in IMPURE_OURS}, path


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_is_crowded(room: str) -> None:
    commands = {ROOT / (where.partition(":")[0].replace(".", "/") + ".py") for _, where, *_ in COMMANDS}
    files = {path for path in (ROOT / room).glob("*.py") if path.name != "__init__.py"}
    assert len(files - commands) <= MAX_FILES  # of commands there is a list


def test_a_logger_is_called_log() -> None:
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.value) == "logs.get(__name__)":
                assert [ast.unparse(target) for target in node.targets] == ["log"], path
