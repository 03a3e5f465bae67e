"""The configuration is validated whole, and each fault names its key, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import brokers
from deploy.settings.config import load
from store.base.errors import ConfigError
from store.base.settings import ModalityKind, ModalitySettings
from store.records.scenario_name import split

GOOD = """
[kafka]
bootstrap_servers = "localhost:9092"
partitions = 2
[kafka.properties]
"security.protocol" = "SSL"
[modalities.click]
topic = "web.click"
text = "{page} {referrer}"
numbers = ["seconds"]
[modalities.person]
topic = "web.person"
kind = "tabular"
[scenarios.churn]
query = "Will they leave?"
"""

SHARED = """
[modalities.click]
topic = "web.x"
[modalities.view]
topic = "web.x"
[modalities.other]
topic = "other"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "anchorstream.toml"
    path.write_text(text)
    return path


def test_a_files_modalities_replace_the_defaults(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD))
    assert list(settings.modalities) == ["click", "person"]
    assert settings.modalities["person"].kind is ModalityKind.TABULAR
    assert list(settings.scenarios) == ["churn"]
    assert settings.kafka.properties == {"security.protocol": "SSL"}


def test_a_memory_reaches_two_years_or_as_far_as_the_window() -> None:
    day = 86_400_000
    for changed, ms in (({}, 730), ({"window_days": 3650}, 3650), ({"memory_days": 0}, 0), ({"memory_days": 100}, 100)):
        made = ModalitySettings(topic="t", **changed)
        assert made.memory_ms == ms * day
        assert made.kept_ms == (ms or 90) * day
    assert ModalitySettings(topic="t", kind=ModalityKind.TABULAR).memory_ms == 0


def test_no_file_gives_the_papers_six_modalities() -> None:
    assert list(load(None).modalities) == ["bill", "minipro", "spm", "search", "app", "profile"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[kafka]\npartitions = 0", ["kafka.partitions", "greater than or equal to 1", "got 0"]),
        ("[kafka]\npartition = 4", ["kafka.partition", "unknown key", "did you mean 'partitions'?"]),
        ("[serv]\nport = 1", ["serv", "unknown key", "did you mean 'serve'?"]),
        ("[modalities.a]\ntopic = 't'\nwindows = 4", ["modalities.a.windows", "did you mean 'window_days'?"]),
        ("[kafka]\nxyzzy = 4", ["kafka.xyzzy", "known here: bootstrap_servers, topic_prefix"]),
        ('[modalities.Bill]\ntopic = "t"', ["'Bill' is not a name"]),
        ('[modalities.a]\ntopic = "t"\ntext = "{x:>3}"', ["modalities.a.text", "placeholders"]),
        ('[modalities.a]\ntopic = "anchorstream.x"', ["modalities.a.topic", "prefix"]),
        ('[modalities.a]\ntopic = "t"\nmax_events = 100000', ["modalities.a.max_events", "1000", "got 100000"]),
        ('[modalities.a]\ntopic = "t"\nmemory_days = 30', ["modalities.a", "memory_days = 30 is shorter"]),
        ('[modalities.a]\ntopic = "t"\nkind = "tabular"\nmemory_days = 800', ["modalities.a", "has no memory_days"]),
        ('[scenarios."churn\\n"]\nquery = "q"', ["scenarios.'churn\\n'", "is not a name"]),
        ('[kafka.properties]\n"group.id" = "x"', ["kafka.properties", "group.id"]),
        ('[kafka.properties]\nacks = 0', ["kafka.properties: acks cannot be set", "all replicas"]),
        ("[serve]\nport = 99999", ["serve.port", "65535", "got 99999"]),
        ('[model]\npreset = "gpt"', ["model.preset", "tiny", "got 'gpt'"]),
        ('[kafka\n', ["must be TOML", "line 1: [kafka"]),
        ("[kafka]\npartitions = = 3\n", ["line 2: partitions = …"]),
        ('[kafka]\ntopic_prefix = """as\n\n\n', ["line 2: topic_prefix = …"]),
        ('[serve]\nread_token = "secret\n', ["line 2: read_token = …"]),
        (
            '[modalities.a]\ntopic = "web.x"\nts_field = "at"\nuser_id_field = "who"\nts_unit = "s"',
            [
                'modalities.a.ts_field: this is said of the raw topic now: `ts` in [mapping."web.x"]',
                'modalities.a.user_id_field: this is said of the raw topic now: `user_id` in [mapping."web.x"]',
                'modalities.a.ts_unit: this is said of the raw topic now: `ts_unit` in [mapping."web.x"]',
            ],
        ),
        (f'{SHARED}[mapping."web.y"]\n', ["mapping.web.y: 'web.y' is no modality's raw topic", "mean 'web.x'?"]),
        (
            f'{SHARED}[mapping."web.x".modalities]\n"Page Viewed" = "vieww"\n',
            ["mapping.web.x.modalities.Page Viewed: 'vieww' is no modality of topic 'web.x'", "mean 'view'?"],
        ),
        (
            f'{SHARED}[mapping."web.x".modalities]\n"Page Viewed" = "other"\n',
            ["'other' is no modality of topic 'web.x'; known here: click, view"],
        ),
        (f'{SHARED}[mapping."web.x"]\nuser = "a"\n', ["mapping.web.x.user: unknown key", "mean 'user_id'?"]),
        (
            f'{SHARED}[mapping."web.x"]\nwhere = [{{feild = "a", present = true}}]\n',
            ["mapping.web.x.where.0.feild: unknown key; did you mean 'field'?"],
        ),
    ],
)  # fmt: skip
def test_every_fault_is_named(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, text))
    for part in said:
        assert part in str(error.value)


def test_what_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('[scenarios.churn]\n\nquery = "Verläßt er uns?"\n'.encode("latin-1"))
    with pytest.raises(ConfigError, match="line 3: query = …"):
        load(path)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 setting") as error:
        load(write(tmp_path, "[kafka]\npartitions = 0\n[serve]\nport = -1"))
    assert "kafka.partitions" in str(error.value)
    assert "serve.port" in str(error.value)


def test_a_wrong_name_does_not_hide_other_faults(tmp_path: Path) -> None:
    """D10."""
    with pytest.raises(ConfigError, match="3 setting") as error:
        load(write(tmp_path, '[scenarios.Churn]\nqery = "q"\n'))
    for part in ("scenarios.Churn: 'Churn' is not a name", "scenarios.Churn.query: Field required", "'query'?"):
        assert part in str(error.value)


def test_a_fault_across_tables_names_its_key_and_no_other_value(tmp_path: Path) -> None:
    """D10. It named `(file)` and printed the whole configuration."""
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, '[modalities.a]\ntopic = "anchorstream.x"\n[kafka.properties]\n"sasl.username" = "me"'))
    assert "modalities.a.topic: 'anchorstream.x' lies under the prefix" in str(error.value)
    assert "got" not in str(error.value)


def test_a_query_with_control_characters_is_told_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, '[scenarios.churn]\nquery = """\nWill it\nleave?"""'))
    assert "scenarios.churn.query: this is one line of text" in str(error.value)
    assert "character 8 is U+000A" in str(error.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ANCHORSTREAM_KAFKA__PROPERTIES", "{bad"), ("ANCHORSTREAM_KAFKA", '{"partitions": }')],
)
def test_a_variable_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """B18. It was a traceback."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable}: not JSON"):
        load(None)


@pytest.mark.parametrize(
    "text",
    ["[serve]\nread_token = 12345", '[kafka.properties]\nacks = 0\n"sasl.password" = "12345"'],
    ids=["token", "beside a fault"],
)
def test_a_secret_is_never_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, text))
    assert "12345" not in str(error.value)


@pytest.mark.parametrize("token", ["", " ", "\t", "two words", "trailing ", "é", "a\nb"])
@pytest.mark.parametrize("key", ["read_token", "admin_token"])
def test_a_token_that_nobody_or_everybody_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, token: str
) -> None:
    """C1: an empty token opened everything."""
    monkeypatch.setenv(f"ANCHORSTREAM_SERVE__{key.upper()}", token)
    with pytest.raises(ConfigError, match=rf"serve\.{key}: .*visible ASCII") as error:
        load(write(tmp_path, GOOD))
    assert "got" not in str(error.value)


def test_an_empty_secret_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "anchorstream_serve__admin_token").write_text("\n")
    monkeypatch.setenv("ANCHORSTREAM_SECRETS_DIR", str(folder))
    with pytest.raises(ConfigError, match=r"serve\.admin_token"):
        load(write(tmp_path, GOOD))


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANCHORSTREAM_KAFKA__PARTITIONS", "7")
    settings = load(write(tmp_path, GOOD))
    assert settings.kafka.partitions == 7
    assert settings.kafka.bootstrap_servers == "localhost:9092"


def test_secrets_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "anchorstream_serve__read_token").write_text("s3cret")
    monkeypatch.setenv("ANCHORSTREAM_SECRETS_DIR", str(folder))
    token = load(write(tmp_path, GOOD)).serve.read_token
    assert token is not None
    assert token.get_secret_value() == "s3cret"


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no config file"):
        load(tmp_path / "nope.toml")


def test_candidates_are_models_of_every_scenario(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        '[scenarios.churn]\nquery = "q"\n[candidates.next]\nseed = 7\n[candidates.big]\npreset = "smollm2-135m"\n'
    )
    settings = load(path)
    assert settings.candidates["next"].seed == 7
    assert settings.scenario_names == ["churn", "churn@next", "churn@big"]
    assert [split(name) for name in settings.scenario_names] == [("churn", ""), ("churn", "next"), ("churn", "big")]
    topics = {spec.name for spec in brokers.specs(settings)}
    assert {"anchorstream.embeddings.churn", "anchorstream.embeddings.churn-next"} <= topics
    path.write_text('[candidates."a@b"]\n')
    with pytest.raises(ConfigError, match="is not a name"):
        load(path)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("ANCHORSTREAM_SERVE_READ_TOKEN", r"two underscores, …serve__read_token"),
        ("anchorstream_kafka_bootstrap_servers", r"two underscores, …kafka__bootstrap_servers"),
        ("ANCHORSTREAM_KAFAK__PARTITIONS", r"no table 'kafak'; did you mean 'kafka'\?"),
        ("ANCHORSTREAM_SERV", r"no table 'serv'; did you mean 'serve'\?"),
    ],
)
def test_a_variable_that_nothing_would_hear_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, said: str
) -> None:
    """It was passed over: a serve without its token, a role on another broker."""
    monkeypatch.setenv(variable, "s3cret")
    with pytest.raises(ConfigError, match=f"{variable}: .*{said}") as error:
        load(None)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ANCHORSTREAM_SERVE_PORT", "tcp://10.0.0.1:8080"),  # Kubernetes, of a Service anchorstream-serve
        ("ANCHORSTREAM_SERVE_SERVICE_HOST", "10.0.0.1"),
        ("ANCHORSTREAM_SERVE_PORT_8080_TCP_PORT", "8080"),
        ("ANCHORSTREAM_READ_TOKEN", "s3cret"),  # compose.yaml's own
        ("ANCHORSTREAM_CACHE", "elsewhere"),
        ("ANCHORSTREAM_LOG_LEVEL", "INFO"),
    ],
)
def test_variables_for_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    assert load(None).serve.port == 8080


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("anchorstream_serv", b"{}", r"no table 'serv'; did you mean 'serve'\?"),
        ("anchorstream_serve_read_token", b"s3cret", r"two underscores"),
        ("anchorstream_serve__read_token", None, r"is a folder, not a file"),
        ("anchorstream_serve__read_token", b"s3cret\xff", r"not UTF-8"),
        ("anchorstream_serve", b"s3cret", r"anchorstream_serve: not JSON"),
    ],
)
def test_a_secret_that_cannot_be_taken_as_meant_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, said: str
) -> None:
    """Docker makes a folder of a mount whose source is missing: serve ran without a token."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    if content is None:
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(content)
    (folder / "anchorstream_tls.pem").write_text("of others")
    monkeypatch.setenv("ANCHORSTREAM_SECRETS_DIR", str(folder))
    with pytest.raises(ConfigError, match=said) as error:
        load(None)
    assert "s3cret" not in str(error.value)
