"""Reads as much of PromQL as is needed to know which series a query wants.

Names of metrics, the matchers of labels behind them and the labels of by, without and on.
https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_SELECTOR = re.compile(r"(?<![\w$\"{/])([a-z_:][\w:]*_[\w:]*|up)\s*(\{[^}]*\})?", re.I)
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
#: What looks like the name of a metric.
_FUNCTIONS = frozenset({"histogram_quantile", "label_values", "group_left", "group_right"})
#: Put on by Prometheus, not by the service.
SCRAPED = frozenset({"instance", "job"})


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric, and (label, operator, value) of what is asked of its labels."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def takes(self, labels: dict[str, str]) -> bool:
        """Whether a series with these labels is meant, leaving aside what Prometheus puts on."""

        def fits(label: str, operator: str, value: str) -> bool:
            there = labels.get(label, "")
            same = re.fullmatch(value, there) is not None if "~" in operator else there == value
            return same is not operator.startswith("!")

        return all(fits(*one) for one in self.matchers if one[0] not in SCRAPED)


def selectors(query: str) -> list[Selector]:
    """The series that a query reads. Grafana's variables may stand in matchers and ranges."""
    bare = _GROUPING.sub(" ", query)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    return [
        Selector(name, tuple(_MATCHER.findall(braces)))
        for name, braces in _SELECTOR.findall(_without_other_text(bare))
        if name not in _FUNCTIONS
    ]


def grouped(query: str) -> set[str]:
    """The labels that a query groups or matches by."""
    lists = _GROUPING.findall(query)
    return {label.strip() for one in lists for label in one.split(",") if label.strip()}


def _without_other_text(query: str) -> str:
    """Without strings that stand outside of braces."""
    return re.sub(r'(\{[^}]*\})|"[^"]*"', lambda found: found[1] or '""', query)
