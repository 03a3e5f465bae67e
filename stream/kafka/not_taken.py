"""A message that the broker did not take: of which topic, why, and what a person does about it. Pure."""

from __future__ import annotations

from confluent_kafka import KafkaError

from stream.topics import MAX_MESSAGE_BYTES

_SIZE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_FINAL = _SIZE | {KafkaError.INVALID_RECORD, KafkaError.POLICY_VIOLATION, KafkaError.TOPIC_AUTHORIZATION_FAILED}


def is_size(error: KafkaError) -> bool:
    """Whether the message, or the batch that it was sent in, was too large."""
    return error.code() in _SIZE


def is_final(error: KafkaError) -> bool:
    """Whether the broker will never take this message, however often it is sent."""
    return error.code() in _FINAL


def why(topic: str, partition: int | None, error: KafkaError) -> str:
    """In words, with the topic and, where one is the cause, the setting."""
    where = topic if partition is None else f"{topic}:{partition}"
    return f"{where}: {error.str()}{' (max.message.bytes of the topic)' if is_size(error) else ''}"


def remedy(topic: str, error: KafkaError, otherwise: str) -> str:
    """What to do. otherwise: where the error says no more than that."""
    if is_size(error):
        return (
            f"raise max.message.bytes of {topic} to {MAX_MESSAGE_BYTES} or more: kafka-configs.sh --alter --topic "
            f"{topic} --add-config max.message.bytes={MAX_MESSAGE_BYTES} (batches of small messages are that long "
            "too); nothing was committed, so a restart sends the messages again"
        )
    return otherwise
