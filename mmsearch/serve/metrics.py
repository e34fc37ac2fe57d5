"""What the service counts and measures, in Prometheus's text format at /metrics.

Names and units by https://prometheus.io/docs/practices/naming/. Each application has a registry of
its own, so that several in one process do not add up.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import mmsearch
from mmsearch.encode.memory import gpu_memory
from mmsearch.errors import MmsearchError
from mmsearch.types import Modality

if TYPE_CHECKING:
    from mmsearch.serve.service import Service

#: Seconds. A cached answer takes two milliseconds, a cold model some seconds.
_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
#: The rows of the catalog that are counted.
_COUNTED = ("images", "texts", "links", "carried", "missing", "failed")


class Metrics:
    """The numbers of one service. Its methods may be called from any thread."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "mmsearch_http_requests_total",
            "Requests answered, by the template of their route.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "mmsearch_http_request_duration_seconds",
            "From the request's head to the end of the answer, waiting included; to its beginning "
            "where it is sent in pieces (large files, ZIP files, events).",
            ["route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "mmsearch_http_requests_in_progress",
            "Requests that have come and are not answered yet.",
            registry=registry,
        )
        self.stages = Histogram(
            "mmsearch_stage_duration_seconds",
            "Stages of an answer: queue (wait for the model), encode (a batch of questions in "
            "it), compare (with many others at once, where so many ask), query, search (compare "
            "and rank), records (look up what is shown).",
            ["stage"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.batches = Histogram(
            "mmsearch_encode_batch_size",
            "Texts or pictures that went through the model at once.",
            ["modality"],
            buckets=_SIZES,
            registry=registry,
        )
        self.dropped = Counter(
            "mmsearch_encode_dropped_total",
            "Questions taken out of the queue because the client had hung up.",
            registry=registry,
        )
        self.refused = Counter(
            "mmsearch_overloaded_total",
            "Requests refused because too much was waiting, or the service was stopping.",
            registry=registry,
        )
        self.cache = Counter(
            "mmsearch_query_cache_requests_total",
            "Parts of questions whose vector was kept from before (hit), or not (miss).",
            ["modality", "result"],
            registry=registry,
        )
        self._gauge("mmsearch_encode_queue_length", "Jobs that wait for the model.").set_function(
            lambda: service.waiting
        )
        self._gauge("mmsearch_query_cache_entries", "Vectors of questions kept.").set_function(
            lambda: service.library.kept
        )
        about = "Whether the model is loaded, and the library where it was opened."
        self._gauge("mmsearch_ready", about).set_function(lambda: float(service.is_ready))
        # So that all series are there from the start: a rate needs a first value.
        for modality in ("text", "image"):
            self.batches.labels(modality)
            for result in ("hit", "miss"):
                self.cache.labels(modality, result)
        for stage in ("queue", "encode", "compare", "query", "search", "records"):
            self.stages.labels(stage)
        registry.register(_Workers(service))
        registry.register(_Library(service))

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self.registry)

    def on_batch(self, waited: Iterable[float]) -> None:
        """Notes for how many seconds each job of a batch had waited for the model's thread."""
        queue = self.stages.labels("queue")
        for seconds in waited:
            queue.observe(seconds)

    @contextmanager
    def encoding(self, modality: Modality, items: int) -> Iterator[None]:
        """Within, so many texts or pictures go through the model at once."""
        began = time.perf_counter()
        yield
        self.on_encoded(modality, items, time.perf_counter() - began)

    def on_encoded(self, modality: Modality, items: int, seconds: float) -> None:
        """Notes how long so many texts or pictures took to go through the model at once."""
        self.batches.labels(modality).observe(items)
        self.stages.labels("encode").observe(seconds)

    def on_dropped(self, jobs: int) -> None:
        """Notes how many jobs were given up before they cost anything."""
        self.dropped.inc(jobs)

    def on_stage(self, stage: str, seconds: float) -> None:
        """Notes what a stage took of one answer, or of many at once."""
        self.stages.labels(stage).observe(seconds)

    def asked_cache(self, modality: str, hits: int, misses: int) -> None:
        """Notes how many vectors were kept, and how many not."""
        self.cache.labels(modality, "hit").inc(hits)
        self.cache.labels(modality, "miss").inc(misses)

    def on_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Notes an answer."""
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All of it in the format that an Accept header asks for, and its content type. Blocks."""
        encode: Callable[[CollectorRegistry], bytes]
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _Workers(Collector):
    """What the worker processes take; what the service's own does is in process_*."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[Metric]:
        """Nothing: the service is not whole yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """How many there are, and the memory and time of each."""
        pids = self._service.workers.pids
        yield GaugeMetricFamily("mmsearch_workers", "Worker processes that run.", value=len(pids))
        memory = GaugeMetricFamily(
            "mmsearch_worker_resident_memory_bytes",
            "Memory of a worker process, with what it shares with others.",
            labels=["pid"],
        )
        time_ = CounterMetricFamily(
            "mmsearch_worker_cpu_seconds", "Time that a worker process has had.", labels=["pid"]
        )
        for pid in pids:
            process = ProcessCollector(pid=functools.partial(int, pid), registry=None)
            numbers = {one.name: one.samples[0].value for one in process.collect()}
            if numbers:  # where there is /proc, and the process in it
                memory.add_metric([str(pid)], numbers["process_resident_memory_bytes"])
                time_.add_metric([str(pid)], numbers["process_cpu_seconds"])
        yield from (memory, time_)


class _Library(Collector):
    """What the library holds, read when it is asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[Metric]:
        """Nothing: otherwise the library would be read to find the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The numbers of the library, its indexes and the GPUs."""
        yield from _gpus()
        library = self._service.library
        try:
            revision = library.catalog.revision()
            status = library.status()
            sizes = library.index_sizes()
        except MmsearchError:
            # The catalog cannot be read now; what the service itself counts is told all the same.
            return
        space = next((s.space for s in status.spaces if s.active), None)
        about = GaugeMetricFamily(
            "mmsearch_info",
            "The version that runs, and the model that it searches with.",
            labels=["version", "model"],
        )
        about.add_metric([mmsearch.__version__, "" if space is None else space.name], 1)
        yield about
        yield GaugeMetricFamily(
            "mmsearch_library_revision", "Grows with each commit.", value=revision
        )
        yield GaugeMetricFamily(
            "mmsearch_library_bytes", "The catalog and the index files.", value=status.bytes
        )
        items = GaugeMetricFamily(
            "mmsearch_library_items",
            "What the library holds: files of pictures, texts, links of texts to pictures, texts "
            "that pictures carry, files that are missing, files that failed.",
            labels=["kind"],
        )
        for kind in _COUNTED:
            items.add_metric([kind], getattr(status, kind))
        yield items
        vectors = GaugeMetricFamily(
            "mmsearch_index_vectors",
            "Vectors that are searched (found), hidden, or not in the index file yet (unsaved).",
            labels=["modality", "state"],
        )
        for modality, counted in sizes.items():
            for state, number in counted.items():
                vectors.add_metric([modality, state], number)
        yield vectors


def _gpus() -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "mmsearch_gpu_memory_bytes",
        "Memory of the GPUs: total, free, and what this process's model has (allocated) and has "
        "set aside (reserved).",
        labels=["device", "state"],
    )
    for device, states in gpu_memory().items():
        for state, number in states.items():
            family.add_metric([device, state], number)
    yield family
