"""The whole configuration: one TOML file plus `ANCHORSTREAM_…` variables, validated at once, every error named."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from deploy.settings.variables import DELIMITER, ENV_PREFIX, broken, unheard, unreadable
from encoder.model.settings import ModelSettings
from store.base.errors import ConfigError
from store.base.query_text import text_fault
from store.base.settings import NAME, ModalitySettings, ScenarioSettings, ServeSettings, StoreSettings
from store.records.scenario_name import every
from stream.settings import IngestSettings, KafkaSettings, MappingSettings, MetricsSettings, ProcessorSettings

Name = Annotated[str, StringConstraints(pattern=NAME)]
PROMPTS_FOLDER = "prompts"
"""Under the data directory: soft prompts, where `model.prompts_dir` names no other place."""


def paper_modalities() -> dict[str, ModalitySettings]:
    """The six modalities of Query-as-Anchor with their event caps (arXiv 2602.14492, public code `params.py`)."""
    return {
        "bill": ModalitySettings(
            topic="behavior.bill", text="{merchant} {category} by {channel}", numbers=("amount",), max_events=250
        ),
        "minipro": ModalitySettings(topic="behavior.minipro", text="{program} {page}", max_events=150),
        "spm": ModalitySettings(topic="behavior.spm", text="{path}", max_events=150),
        "search": ModalitySettings(topic="behavior.search", text="{query}", max_events=10),
        "app": ModalitySettings(topic="behavior.app", text="{action} {app}", max_events=100),
        "profile": ModalitySettings(topic="behavior.profile", kind="tabular", max_events=50),  # type: ignore[arg-type]
    }


def default_scenarios() -> dict[str, ScenarioSettings]:
    """Scenarios of a new file."""
    return {
        "credit_risk": ScenarioSettings(query="Will this user fall behind on a repayment in the next month?"),
        "coupon_response": ScenarioSettings(query="Will this user use a coupon in the next month?"),
        "churn": ScenarioSettings(query="Will this user stop coming in the next month?"),
    }


class Settings(BaseSettings):
    """Everything a role can be told."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter=DELIMITER, case_sensitive=False
    )

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    modalities: dict[Name, ModalitySettings] = Field(default_factory=paper_modalities, min_length=1, max_length=64)
    mapping: dict[str, MappingSettings] = Field(default_factory=dict)
    scenarios: dict[Name, ScenarioSettings] = Field(default_factory=default_scenarios, min_length=1, max_length=256)
    ingest: IngestSettings = Field(default_factory=IngestSettings)
    processor: ProcessorSettings = Field(default_factory=ProcessorSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    candidates: dict[Name, ModelSettings] = Field(default_factory=dict, max_length=8)
    store: StoreSettings = Field(default_factory=StoreSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)

    @model_validator(mode="after")
    def _own_topics(self) -> Self:
        own = f"{self.kafka.topic_prefix}."
        for name, modality in self.modalities.items():
            if modality.topic.startswith(own):
                raise PydanticCustomError(
                    "own_topic",
                    "{topic} lies under the prefix {own} of our own topics",
                    {"topic": repr(modality.topic), "own": repr(own), "key": f"modalities.{name}.topic"},
                )
        return self

    @model_validator(mode="after")
    def _one_line_each(self) -> Self:
        for name, scenario in self.scenarios.items():
            for key, text in (("query", scenario.query), ("prompt", scenario.prompt)):
                if text is not None and (fault := text_fault(text)):
                    raise PydanticCustomError(
                        "not_one_line", "{fault}", {"fault": fault, "key": f"scenarios.{name}.{key}"}
                    )
        return self

    @model_validator(mode="after")
    def _known_to_mapping(self) -> Self:
        topics = {modality.topic for modality in self.modalities.values()}
        for topic, mapping in self.mapping.items():
            if topic not in topics:
                raise PydanticCustomError(
                    "unknown_topic",
                    "{topic} is no modality's raw topic{meant}",
                    {"topic": repr(topic), "meant": _near(topic, sorted(topics)), "key": f"mapping.{topic}"},
                )
            own = sorted(name for name, modality in self.modalities.items() if modality.topic == topic)
            for value, name in mapping.modalities.items():
                if name not in own:
                    raise PydanticCustomError(
                        "unknown_modality",
                        "{name} is no modality of topic {topic}{meant}",
                        {
                            "name": repr(name),
                            "topic": repr(topic),
                            "meant": _near(name, own),
                            "key": f"mapping.{topic}.modalities.{value}",
                        },
                    )
        return self

    @property
    def scenario_names(self) -> list[str]:
        """The configured scenarios as the model computes them, and as each candidate does (`churn@NAME`)."""
        return every(self.scenarios, self.candidates)

    def with_prompts(self, model: ModelSettings) -> ModelSettings:
        """One of the models' settings, with the folder of soft prompts that is meant where none is named."""
        folder = model.prompts_dir or self.store.data_dir / PROMPTS_FOLDER
        return model.model_copy(update={"prompts_dir": folder.absolute()})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """File values come in through `init`; the environment and secret files override them."""
        secrets = NestedSecretsSettingsSource(file_secret_settings, secrets_nested_delimiter=DELIMITER)
        return env_settings, secrets, init_settings


def load(path: Path | None, *, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read and validate the configuration.

    Args:
        path: TOML file; None = defaults (and the environment).
        overrides: nested values that win over the file, as command-line options do.

    Raises:
        ConfigError: the file cannot be read, or a value is wrong; the message names key, value and what is allowed.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            raw = path.read_bytes()
            data = tomllib.loads(raw.decode("utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"no config file at {path}", action="check --config, or leave it out for defaults"
            ) from None
        except OSError as exc:
            raise ConfigError(f"{path}: {exc}", action="the file must be readable") from exc
        except ValueError as exc:
            raise ConfigError(
                f"{path}: {exc}{faulty_line(raw, exc)}", action="the file must be TOML, in UTF-8"
            ) from exc
    secrets = os.environ.get(f"{ENV_PREFIX}SECRETS_DIR")
    if secrets is not None and not Path(secrets).is_dir():
        raise ConfigError(f"{ENV_PREFIX}SECRETS_DIR={secrets!r} is not a directory", action="mount it or unset it")
    folder = None if secrets is None else Path(secrets)
    if faults := [*unheard(Settings.model_fields, folder), *unreadable(folder)]:
        raise ConfigError(
            "\n  ".join(["the environment or its secrets cannot be taken as meant", *faults]),
            action=f"mend or remove it; names are {ENV_PREFIX}SECTION{DELIMITER}KEY",
        )
    try:
        return Settings(_secrets_dir=secrets, **merge(data, overrides or {}))  # type: ignore[call-arg]
    except SettingsError as exc:
        raise ConfigError(
            f"{', '.join(broken(Settings.model_fields, folder)) or exc}: not JSON: {exc.__cause__}",
            action="in a variable or secret file a table is given as JSON, a single value as it is",
        ) from exc
    except ValidationError as exc:
        raise ConfigError(describe(exc, path, data), action="see docs/configuration.md for every key") from exc


def faulty_line(raw: bytes, exc: ValueError) -> str:
    """Where a file is no TOML, and what stands there; never more of it than a key, since it may be a secret."""
    if isinstance(exc, UnicodeDecodeError):
        number = raw.count(b"\n", 0, exc.start) + 1
    elif found := re.search(r"at line ([0-9]+)", str(exc)):
        number = int(found[1])
    else:  # at the end of the document
        number = raw.rstrip().count(b"\n") + 1
    lines = raw.splitlines()
    text = lines[number - 1].decode("utf-8", "replace") if 0 < number <= len(lines) else ""
    key, equals, _ = text.partition("=")
    shown = f"{key.strip()} = …" if equals else text.strip() if text.lstrip().startswith("[") else ""
    return f"; line {number}{f': {shown}' if shown else ''}"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merge(out[key], value) if isinstance(value, Mapping) and isinstance(out.get(key), Mapping) else value
    return out


def describe(exc: ValidationError, path: Path | None, data: Mapping[str, Any]) -> str:
    """One line per fault: key, what is allowed, and the value given (never a secret's). data: of the file."""
    lines = [f"{path or 'configuration'}: {exc.error_count()} setting(s) are wrong"]
    for fault in exc.errors(include_url=False):
        where, given = fault["loc"], fault["input"]
        key = fault.get("ctx", {}).get("key") or ".".join(_plain(part) for part in where if part != "[key]") or "(file)"
        hidden = isinstance(given, (Mapping, BaseModel)) or any(word in key for word in ("token", "password", "secret"))
        shown = "" if hidden or fault["type"] in ("missing", "extra_forbidden") else f"; got {given!r:.80}"
        if fault["type"] == "extra_forbidden":
            message = _moved(where, data) or f"unknown key{_meant(where)}"
        elif where and where[-1] == "[key]":
            message, shown = f"{given!r} is not a name: lower-case letters, digits and _, at most 63, letter first", ""
        else:
            message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"  {key}: {message}{shown}")
    return "\n".join(lines)


def _plain(part: int | str) -> str:
    return str(part) if str(part).isprintable() else repr(part)


def _meant(where: tuple[int | str, ...]) -> str:
    """The known key that is most like an unknown one."""
    section: Any = Settings
    for part in where[:-1]:
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[str(part)].annotation
        elif isinstance(part, int):  # tuple[Section, ...]
            section = section.__args__[0]
        else:  # dict[Name, Section]
            section = section.__args__[1]
    return _near(str(where[-1]), list(section.model_fields))


def _near(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"


_MOVED = {
    "user_id_field": "user_id",
    "user_id_integers": "user_id_integers",
    "ts_field": "ts",
    "ts_unit": "ts_unit",
    "ts_zone": "ts_zone",
}


def _moved(where: tuple[int | str, ...], data: Mapping[str, Any]) -> str:
    """Where a modality's key is now; "" for any other."""
    if len(where) != 3 or where[0] != "modalities" or (key := _MOVED.get(str(where[2]))) is None:
        return ""
    modality = data.get("modalities", {}).get(where[1], {})
    topic = modality.get("topic", "TOPIC") if isinstance(modality, Mapping) else "TOPIC"
    return f'this is said of the raw topic now: `{key}` in [mapping."{topic}"]'
