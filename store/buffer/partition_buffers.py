"""The token buffers of one instance of a role: a directory per partition, all for the same windows and vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from store.base.settings import ModalitySettings
from store.buffer.resources import BufferResources
from store.buffer.token_buffer import TokenBuffer


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
        """The buffer of a partition; a new one is empty.

        Raises:
            StateError: the directory belongs to another format, encoder, broker or role, is in use, or unreadable.
        """
        return TokenBuffer.open(
            self.folder / str(partition),
            modalities=self.modalities,
            encoder_id=self.encoder_id,
            dim=self.dim,
            identity=self.identity,
            expiry_granularity_ms=self.expiry_granularity_ms,
            resources=self.resources,
            replica=self.replica,
        )
