"""Develops a raw file: from stdin, its pixels to stdout. See `develop` in mmsearch.raw.libraw.

Run as a file: nothing of mmsearch is imported. Answers with a line, "pixels HEIGHT WIDTH" or "error
NAME", and after the former with the pixels, (height, width, 3) uint8. Its arguments: "half", for
sides half as long, and "suspect", for a file that may be cut off.
"""

from __future__ import annotations

import io
import sys
from typing import Any

_COLOURS = 4


def _what_is_wrong(file: Any, *, suspect: bool) -> str | None:
    """What LibRaw does not say of values that are not there, or are no such: it makes them one
    value for each colour, where what was taken has noise. suspect: look at the corner that is
    unpacked last."""
    import numpy as np

    try:
        values = file.raw_image_visible
    except NotImplementedError:  # nothing that can be looked at
        return None
    if suspect and np.unique(values[-2:, -(values.shape[1] // 8) :]).size <= _COLOURS:
        return "LibRawIOError"
    # Every seventh: of each colour.
    return "LibRawDataError" if np.unique(values[::7, ::7]).size <= _COLOURS else None


def main() -> int:
    """Develops with the white balance that the camera chose, not turned. Returns an exit status."""
    import numpy as np
    import rawpy

    out = sys.stdout.buffer
    try:
        with rawpy.imread(io.BytesIO(sys.stdin.buffer.read())) as file:
            wrong = _what_is_wrong(file, suspect="suspect" in sys.argv[1:])
            if wrong is not None:
                out.write(f"error {wrong}\n".encode())
                return 1
            pixels = file.postprocess(
                half_size="half" in sys.argv[1:],
                demosaic_algorithm=rawpy.DemosaicAlgorithm.PPG,
                use_camera_wb=True,
                output_color=rawpy.ColorSpace.sRGB,
                output_bps=8,
                user_flip=0,
            )
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))  # of one colour: three times
            out.write(b"pixels %d %d\n" % pixels.shape[:2])
            out.write(np.ascontiguousarray(pixels).data)
    except Exception as exc:  # noqa: BLE001 -- told to who started this
        out.write(f"error {type(exc).__name__}\n".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
