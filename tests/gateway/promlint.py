"""What `promtool check metrics` complains of, for machines that have no promtool."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

KINDS = {"counter", "gauge", "histogram", "summary", "untyped"}
PREFIXES = "pico nano micro milli centi deci kilo kibi mega mebi giga gibi tera tebi".split()
BASE_UNITS = "seconds bytes meters metres grams joules volts amperes celsius kelvins".split()
NO_BASE_UNITS = {
    "minutes", "hours", "days", "weeks", "bits", "percent", "percentage", "fahrenheit",
    *(prefix + unit for prefix in PREFIXES for unit in BASE_UNITS),
}  # fmt: skip
ABBREVIATIONS = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}
OWN_LABELS = {"le": "histogram", "quantile": "summary"}
OWN_SUFFIXES = {"_bucket": {"histogram"}, "_count": {"histogram", "summary"},
                "_sum": {"histogram", "summary"}}  # fmt: skip


def complaints(exposition: str) -> list[str]:
    """One for each thing that is wrong with a name, a label or a help text."""
    typed = [line.split()[2:] for line in exposition.splitlines() if line.startswith("# TYPE ")]
    names = [name for name, _ in typed]
    twice = [f"{name}: there are two of it" for name in {*names} if names.count(name) > 1]
    endless = [
        f"{name}: a counter ends in _total"  # which the parser adds
        for name, kind in typed
        if kind == "counter" and not name.endswith("_total")
    ]
    return (
        twice
        + endless
        + [
            f"{family.name}: {what}"
            for family in text_string_to_metric_families(exposition)
            for what in _of_family(family)
        ]
    )


def _of_family(family: Metric) -> Iterator[str]:
    if not family.documentation.strip():
        yield "no help text"
    yield from _of_name(family.name, family.type)
    for sample in family.samples:
        for label in sample.labels:
            if OWN_LABELS.get(label, family.type) != family.type:
                yield f"{label} is no label of a {family.type}"
            if re.search(r"[a-z][A-Z]", label):
                yield f"{label} is not written with underscores"


def _of_name(name: str, kind: str) -> Iterator[str]:
    words = name.lower().split("_")
    if ":" in name:
        yield "a colon is for recorded rules"
    if re.search(r"[a-z][A-Z]", name):
        yield "it is not written with underscores"
    if kind != "counter" and name.endswith("_total"):
        yield "only a counter ends in _total"
    for word in sorted({*words} & KINDS):
        yield f"{word} is a type"
    for word in sorted({*words} & (NO_BASE_UNITS | ABBREVIATIONS)):
        yield f"{word} is no base unit"
    for suffix, kinds in OWN_SUFFIXES.items():
        if name.endswith(suffix) and kind not in kinds:
            yield f"a {kind} does not end in {suffix}"
