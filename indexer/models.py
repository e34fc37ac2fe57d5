"""The model of a run; kept where runs follow one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from indexer.encoder_processes import EncoderProcesses
from mmsearch.encode import space_at_hand

if TYPE_CHECKING:
    from mmsearch.encode import Encoder


class Models:
    """Loads models, and holds the last one, so that the next run has it at once."""

    def __init__(self) -> None:
        self._key: tuple[str, str, str, bool] | None = None
        self._encoder: Encoder | None = None

    def load(
        self,
        model: str,
        *,
        device: str,
        dtype: str,
        reference: bool,
        on_load: Callable[[str], None],
    ) -> Encoder:
        """The model: the one held, if its weights on disk are still the same, or loaded anew.

        device: as of `load_encoder`, or several with commas: one process each, see
            `indexer.encoder_processes`.
        on_load: told the name when loading begins. Errors as of `load_encoder`.
        """
        key = model, device, dtype, reference
        if self._encoder is not None and self._key == key:
            now = space_at_hand(model)
            if now is None or now.fingerprint == self._encoder.space.fingerprint:
                return self._encoder
        on_load(model)
        # Let go of the old one first: two may not fit into memory.
        self.close()
        self._encoder = self._load(model, device, dtype, reference)
        self._key = key
        return self._encoder

    def close(self) -> None:
        """Lets go of the model, and ends its processes if it has any."""
        if isinstance(self._encoder, EncoderProcesses):
            self._encoder.close()
        self._key = self._encoder = None

    @staticmethod
    def _load(model: str, device: str, dtype: str, reference: bool) -> Encoder:
        from mmsearch.encode import load_encoder

        devices = [part.strip() for part in device.split(",")]
        if len(devices) == 1:
            return load_encoder(model, device=device, dtype=dtype, reference=reference)
        return EncoderProcesses(model, devices, dtype=dtype, reference=reference)
