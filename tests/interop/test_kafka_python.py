"""kafka-python: a round trip of 100,000 records over 12 partitions, every one checked."""

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

PARTITIONS, RECORDS = 12, 100_000


def expected(n):
    """Key, value, headers and timestamp of record n."""
    key = None if n % 7 == 0 else b"key-%d" % n
    value = None if n % 1001 == 1000 else b"value-%d-" % n + b"x" * (n % 200)
    headers = [("number", b"%d" % n), ("empty", b"")] if n % 3 == 0 else []
    return key, value, headers, 1_700_000_000_000 + n


def test_round_trip(broker):
    KafkaAdminClient(bootstrap_servers=broker.bootstrap).create_topics([NewTopic("python", PARTITIONS, 1)])
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True, linger_ms=20, batch_size=65536, retries=10)
    futures = []
    for n in range(RECORDS):
        key, value, headers, timestamp = expected(n)
        futures.append(producer.send("python", value, key, headers, n % PARTITIONS, timestamp))
    producer.flush(timeout=120)
    for n, future in enumerate(futures):
        done = future.get(timeout=60)
        assert (done.partition, done.offset) == (n % PARTITIONS, n // PARTITIONS), (n, done)
    producer.close()

    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, group_id=None)
    parts = [TopicPartition("python", p) for p in range(PARTITIONS)]
    consumer.assign(parts)
    consumer.seek_to_beginning()
    next_offsets, seen = [0] * PARTITIONS, 0
    while seen < RECORDS:
        polled = consumer.poll(timeout_ms=30000, max_records=10000)
        assert polled, f"no more after {seen} records"
        for part, records in polled.items():
            for r in records:
                assert r.offset == next_offsets[part.partition], (r.partition, r.offset, next_offsets[part.partition])
                next_offsets[part.partition] += 1
                n = r.offset * PARTITIONS + part.partition
                assert (r.key, r.value, list(r.headers), r.timestamp) == expected(n), (n, r)
                seen += 1
    assert consumer.poll(timeout_ms=300) == {}
    ends = consumer.end_offsets(parts)
    assert sum(ends.values()) == RECORDS and set(consumer.beginning_offsets(parts).values()) == {0}
    found = consumer.offsets_for_times({parts[5]: 1_700_000_000_000 + 5 + 12 * 1000})[parts[5]]
    assert found.offset == 1000, found
    consumer.close()


def test_gzip_and_seek(broker):
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, compression_type="gzip", linger_ms=20)
    for n in range(5000):
        producer.send("python-gzip", b"%d" % n, partition=0)
    producer.flush(timeout=60)
    producer.close()
    part = TopicPartition("python-gzip", 0)
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, enable_auto_commit=False, group_id=None)
    consumer.assign([part])
    for offset in (4999, 0, 2500):
        consumer.seek(part, offset)
        got = consumer.poll(timeout_ms=30000, max_records=1)[part][0]
        assert (got.offset, got.value) == (offset, b"%d" % offset)
    consumer.close()
