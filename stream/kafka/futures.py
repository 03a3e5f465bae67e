"""Answers of an admin client, all awaited: one collected with a question under way may bring the process down."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

K = TypeVar("K")


def all_of(answers: Mapping[K, Future[Any]], timeout_s: float) -> dict[K, Any]:
    """Every result; waits for all of them, also when one fails.

    Args:
        timeout_s: for each; somewhat longer than the request's own, which is what ends them.

    Raises:
        confluent_kafka.KafkaException: the first failure, `_TIMED_OUT` where none came in time.
    """
    found: dict[K, Any] = {}
    failure: KafkaException | None = None
    for key, answer in answers.items():
        try:
            found[key] = answer.result(timeout_s)
        except KafkaException as exc:
            failure = failure or exc
        except TimeoutError:
            failure = failure or KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    if failure is not None:
        raise failure
    return found
