"""The model of a run; kept where runs follow one another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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

        on_load: told the name when loading begins. Errors as of `load_encoder`.
        """
        key = model, device, dtype, reference
        if self._encoder is not None and self._key == key:
            now = space_at_hand(model)
            if now is None or now.fingerprint == self._encoder.space.fingerprint:
                return self._encoder
        from mmsearch.encode import load_encoder

        on_load(model)
        # Let go of the old one first: two may not fit into memory.
        self._key = self._encoder = None
        self._encoder = load_encoder(model, device=device, dtype=dtype, reference=reference)
        self._key = key
        return self._encoder
