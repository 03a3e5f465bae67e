"""The token buffers of one instance of a role: a directory per partition, all for the same windows and vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from store.base import logs, metrics
from store.base.errors import StateError
from store.base.settings import ModalitySettings
from store.buffer.database import set_aside
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class PartitionBuffers:
    """How a partition's buffer is opened here, and what it must have been made for.

    Attributes:
        folder: of this instance alone.
        identity: of the broker that `tokens` lives on (`Connection.identity`).
        encoder_id, dim: of the text encoder whose vectors are in `tokens`.
        expiry_granularity_ms: step in which the windows' lower edge moves.
        resources: shared by all of them.
        replica: they follow the log only.
    """

    folder: Path
    identity: str
    modalities: Mapping[str, ModalitySettings]
    encoder_id: str
    dim: int
    expiry_granularity_ms: int
    resources: BufferResources
    replica: bool = False

    def open(self, partition: int) -> TokenBuffer:
        """The buffer of a partition; a new one is empty. One that is damaged is set aside, and a new one opened.

        Raises:
            StateError: the directory belongs to another format, encoder, broker or role, is in use, or unreadable.
        """
        path = self.folder / str(partition)
        try:
            return self._open(path)
        except StateError as exc:
            if exc.code != "state_damaged":
                raise
            aside = set_aside(path)
            metrics.STATE_SET_ASIDE.inc()
            log.error(
                logs.STATE_SET_ASIDE,
                partition=partition,
                error=exc.detail,
                aside=str(aside),
                action="it is restored from `tokens`; look after the disk, then remove what was set aside",
            )
            return self._open(path)

    def _open(self, path: Path) -> TokenBuffer:
        return TokenBuffer.open(
            path,
            modalities=self.modalities,
            encoder_id=self.encoder_id,
            dim=self.dim,
            identity=self.identity,
            expiry_granularity_ms=self.expiry_granularity_ms,
            resources=self.resources,
            replica=self.replica,
        )
