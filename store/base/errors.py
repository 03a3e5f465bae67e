"""Errors a person meets, each with a stable code and what to do about it. `docs/errors.md` lists them all (tested).

AnchorstreamError
├── ConfigError          config_invalid          a setting is wrong; names the key, the value and what is allowed
├── BrokerError          broker_unreachable …    the broker cannot be used as it is
├── TopicError           topic_mismatch          a topic's partitions or settings differ from the config
├── DataLossError        data_lost               a position lies below the broker's low watermark
├── StateError           state_mismatch …        a data directory belongs to something else (format, encoder, broker)
├── PartitionTaken           partition_taken         another processor owns the partition now
├── DataDirLocked        data_dir_locked         another `anchorstream up` owns the data directory
├── WeightsError         weights_missing …       model weights cannot be found or do not fit
├── ScriptError          script_failed           an operator's script failed, hung or answered something else
├── RoleError            role_failed …           a role started by `up` keeps dying or does not get ready
├── ScenarioError        scenario_configured …   a scenario cannot be registered, changed or retired at run time
└── NotFoundError        not_found               an unknown user, scenario or file
"""

from __future__ import annotations


class AnchorstreamError(Exception):
    """Base of every expected failure. `code` is stable; `detail` says what; `action` says what to do."""

    code = "error"
    exit_code = 1

    def __init__(self, detail: str, *, action: str = "", code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.action = action
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.detail}\n  → {self.action}" if self.action else self.detail


class ConfigError(AnchorstreamError):
    """A setting is wrong. Nothing was started."""

    code = "config_invalid"
    exit_code = 2


class BrokerError(AnchorstreamError):
    """The broker cannot be reached or used."""

    code = "broker_unreachable"


class TopicError(AnchorstreamError):
    """A topic exists with other partitions or settings than the config asks for."""

    code = "topic_mismatch"


class DataLossError(AnchorstreamError):
    """Messages that were still needed are gone from the broker. Never continued silently."""

    code = "data_lost"


class StateError(AnchorstreamError):
    """State on disk does not belong to this config, broker, encoder or format version. Nothing was changed."""

    code = "state_mismatch"


class PartitionTaken(AnchorstreamError):
    """Another processor has taken the partition over; nothing of the batch was committed here."""

    code = "partition_taken"


class DataDirLocked(AnchorstreamError):
    """Another process owns the data directory."""

    code = "data_dir_locked"


class WeightsError(AnchorstreamError):
    """Model weights are missing or do not fit the configured preset."""

    code = "weights_missing"


class RoleError(AnchorstreamError):
    """A role that `up` started keeps dying, or did not get ready in time. The message ends with its last log lines."""

    code = "role_failed"


class ScriptError(AnchorstreamError):
    """A script that was given to a command failed, hung or answered what cannot be read."""

    code = "script_failed"


class ScenarioError(AnchorstreamError):
    """A scenario cannot be registered, changed or retired at run time. Nothing was changed."""

    code = "scenario_configured"


class NotFoundError(AnchorstreamError):
    """An unknown user, scenario, modality or file was asked for."""

    code = "not_found"
