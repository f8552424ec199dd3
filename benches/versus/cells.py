"""The matrix: what is run against both brokers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cell:
    """One workload. `load` are arguments of the load generator; `kafka` and `corelane` are topic settings of one side alone."""

    name: str
    mode: str
    load: str
    group: str = "throughput"
    kafka: str = ""
    corelane: str = ""
    # The promise behind an acknowledgement differs: Kafka answers from the page cache unless it is told to flush.
    promise: str = ""


def throughput():
    for record in ("100", "1k", "10k"):
        for batch in ("16k", "64k", "1m"):
            for acks in ("1", "all"):
                inflight = {"16k": 16, "64k": 8, "1m": 4}[batch]
                load = f"--connections 4 --inflight {inflight} --partitions 4 --record-size {record} --batch-bytes {batch} --acks {acks}"
                name = f"produce {size(record)} records, {size(batch)} batches, acks={acks}"
                if acks == "1":
                    yield Cell(name, "produce", load, promise="written / page cache")
                else:
                    yield Cell(name, "produce", load, promise="flushed / page cache")
                    if record == "1k":
                        yield Cell(f"{name}, both flushed", "produce", load, kafka="flush.messages=1", promise="flushed / flushed")


def spread():
    """Partitions and producers."""
    for partitions in (1, 12, 100, 1000):
        load = f"--connections 16 --inflight 5 --partitions {partitions} --record-size 1k --batch-bytes 64k --acks all"
        yield Cell(f"produce to {partitions} partitions, 16 producers", "produce", load, "spread", promise="flushed / page cache")
    for producers, partitions, keys in ((1, 12, 0), (16, 12, 10_000), (200, 100, 0), (200, 100, 10_000)):
        load = f"--connections {producers} --inflight 5 --partitions {partitions} --record-size 1k --batch-bytes 16k --acks all --keys {keys}"
        keyed = ", keyed" if keys else ""
        yield Cell(f"{producers} producers to {partitions} partitions, 16 KiB batches{keyed}", "produce", load, "spread", promise="flushed / page cache")
    load = "--connections 8 --inflight 1 --partitions 1 --record-size 100 --batch-bytes 0 --acks all"
    yield Cell("one record a request, 8 producers, 1 partition", "produce", load, "spread", promise="flushed / page cache")
    yield Cell("one record a request, 8 producers, 1 partition, both flushed", "produce", load, "spread", kafka="flush.messages=1", promise="flushed / flushed")


def fetch():
    load = "--connections 4 --inflight 4 --partitions 4 --record-size 1k --batch-bytes 64k"
    yield Cell("fetch 1 KiB records at the tail", "fetch", f"{load} --fill 8m", "fetch")
    yield Cell("fetch 100 B records at the tail", "fetch", f"{load.replace('1k', '100')} --fill 8m", "fetch")
    yield Cell("fetch 1 KiB records, 2 GiB", "fetch", f"{load} --fill 512m", "fetch")


def latency():
    for rate in (1000, 5000, 10_000, 20_000):
        load = f"--connections 8 --inflight 64 --partitions 8 --record-size 100 --batch-bytes 0 --acks all --rate {rate}"
        yield Cell(f"one record a request, {rate:,}/s, open loop", "produce", load, "latency", promise="flushed / page cache")
    load = "--connections 4 --inflight 16 --partitions 4 --record-size 1k --batch-bytes 16k --acks all --rate 5000"
    yield Cell("end to end, 16 KiB batches, 5,000/s", "e2e", load, "latency", promise="flushed / page cache")


def size(text):
    return {"100": "100 B", "1k": "1 KiB", "10k": "10 KiB", "16k": "16 KiB", "64k": "64 KiB", "1m": "1 MiB"}[text]


CELLS = [*throughput(), *spread(), *fetch(), *latency()]
