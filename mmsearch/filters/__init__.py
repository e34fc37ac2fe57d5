"""Filters: which pictures or texts a search may find. What they mean; `store` resolves them."""

from mmsearch.filters.conditions import (
    And,
    Camera,
    Condition,
    Dates,
    Filter,
    Format,
    Has,
    Keyword,
    Near,
    Not,
    Or,
    Orientation,
    Path,
    Range,
    Source,
    Tag,
    checked,
    conditions,
)
from mmsearch.filters.facets import FacetCount, Facets
from mmsearch.filters.grammar import parse, parse_all, to_text
from mmsearch.filters.json_form import from_json, to_json

__all__ = [
    "And",
    "Camera",
    "Condition",
    "Dates",
    "FacetCount",
    "Facets",
    "Filter",
    "Format",
    "Has",
    "Keyword",
    "Near",
    "Not",
    "Or",
    "Orientation",
    "Path",
    "Range",
    "Source",
    "Tag",
    "checked",
    "conditions",
    "from_json",
    "parse",
    "parse_all",
    "to_json",
    "to_text",
]
