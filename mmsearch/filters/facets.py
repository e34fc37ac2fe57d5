"""What pictures have in common, counted: for a page to offer as filters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FacetCount:
    """So many pictures have this value. `filter`: the text of the filter that finds them."""

    value: str
    count: int
    filter: str


@dataclass(frozen=True, slots=True)
class Facets:
    """Counts over `total` pictures; values that none has are left out.

    years, months ("2019", "2019-07"): in order of time; all others the commonest first. A picture
    may count in several sources, keywords and tags. cameras, keywords and tags that differ by case
    alone are one. has: of caption, gps, date, camera, keyword, tag.
    """

    total: int
    sources: tuple[FacetCount, ...] = ()
    years: tuple[FacetCount, ...] = ()
    months: tuple[FacetCount, ...] = ()
    cameras: tuple[FacetCount, ...] = ()
    formats: tuple[FacetCount, ...] = ()
    orientations: tuple[FacetCount, ...] = ()
    keywords: tuple[FacetCount, ...] = ()
    tags: tuple[FacetCount, ...] = ()
    has: tuple[FacetCount, ...] = ()
