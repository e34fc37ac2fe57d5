"""Develops a raw file: from stdin, its pixels to stdout. See `develop` in mmsearch.raw.libraw.

Run as a file: nothing of mmsearch is imported. Answers with a line, "pixels HEIGHT WIDTH" or "error
NAME", and after the former with the pixels, (height, width, 3) uint8.
"""

from __future__ import annotations

import io
import sys


def main() -> int:
    """Develops with the white balance that the camera chose, not turned. Returns an exit status."""
    import numpy as np
    import rawpy

    out = sys.stdout.buffer
    try:
        with rawpy.imread(io.BytesIO(sys.stdin.buffer.read())) as file:
            pixels = file.postprocess(
                half_size=sys.argv[1] == "half",
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
