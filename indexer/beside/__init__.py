"""Files that other programs write beside pictures, about them: .xmp, and Google Takeout's .json.

What they tell counts as what the pictures say of themselves. Which files lie beside a picture is
seen by a scan from names and `stat` alone, and kept with the picture as one text (`noted`): when
that is another one, they are read again, and the picture is not.
"""

from __future__ import annotations

from indexer.beside.around import Around
from indexer.beside.inside import Inside
from indexer.beside.names import is_beside
from indexer.beside.notes import NONE
from indexer.beside.reading import Fault, Heard, read

__all__ = ["NONE", "Around", "Fault", "Heard", "Inside", "is_beside", "read"]
