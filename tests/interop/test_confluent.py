"""confluent-kafka (librdkafka 2): round trips, all compressions, a consumer far behind beside one at the tail."""

import threading
import time

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from raw import Connection

PARTITIONS, RECORDS = 12, 100_000
OVERRIDES = {"corelane.memory": "128m"}  # less than what the consumer far behind has to read


def create(broker, topic, partitions, **config):
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(60)


def consumer_of(broker, topic, partitions, offset, **more):
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none", "enable.auto.commit": False, "auto.offset.reset": "error", "check.crcs": True, **more})
    consumer.assign([TopicPartition(topic, p, offset) for p in range(partitions)])
    return consumer


def read(consumer, count, timeout=120):
    """The next `count` records."""
    deadline, got = time.monotonic() + timeout, []
    while len(got) < count:
        assert time.monotonic() < deadline, f"{len(got)} of {count} records after {timeout} s"
        for message in consumer.consume(min(count - len(got), 10000), 1.0):
            assert message.error() is None, message.error()
            got.append(message)
    return got


def produce(broker, topic, records, **config):
    """Produces (partition, key, value, headers, timestamp) and returns the offsets by position."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000, **config})
    offsets = [None] * len(records)

    def delivered(n):
        def done(error, message):
            offsets[n] = message.offset() if error is None else error

        return done

    for n, (partition, key, value, headers, timestamp) in enumerate(records):
        producer.produce(topic, value, key, partition, on_delivery=delivered(n), headers=headers, timestamp=timestamp)
        if n % 1000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0, "not all records are delivered"
    return offsets


def expected(n):
    key = None if n % 7 == 0 else b"key-%d" % n
    value = None if n % 1001 == 1000 else b"value-%d-" % n + b"x" * (n % 200)
    headers = [("number", b"%d" % n), ("none", None)] if n % 3 == 0 else None
    return n % PARTITIONS, key, value, headers, 1_700_000_000_000 + n


def check(messages, count):
    next_offsets = [0] * PARTITIONS
    for m in messages:
        assert m.offset() == next_offsets[m.partition()], (m.partition(), m.offset(), next_offsets[m.partition()])
        next_offsets[m.partition()] += 1
        n = m.offset() * PARTITIONS + m.partition()
        assert (m.partition(), m.key(), m.value(), m.headers(), m.timestamp()[1]) == expected(n), n
    assert sum(next_offsets) == count


def round_trip(broker, topic, count, **config):
    create(broker, topic, PARTITIONS)
    offsets = produce(broker, topic, [expected(n) for n in range(count)], **config)
    assert offsets == [n // PARTITIONS for n in range(count)]
    consumer = consumer_of(broker, topic, PARTITIONS, OFFSET_BEGINNING)
    check(read(consumer, count), count)
    assert consumer.consume(1, 0.3) == []
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, 3), timeout=30)
    assert (low, high) == (0, (count - 4) // PARTITIONS + 1)
    at = consumer.offsets_for_times([TopicPartition(topic, 3, 1_700_000_000_000 + 3 + 12 * 100)], timeout=30)[0]
    assert at.offset == 100, at
    consumer.close()


def test_round_trip(broker):
    round_trip(broker, "rdkafka", RECORDS)


def test_gzip(broker):
    round_trip(broker, "rdkafka-gzip", 10000, **{"compression.type": "gzip"})


def test_snappy(broker):
    round_trip(broker, "rdkafka-snappy", 10000, **{"compression.type": "snappy"})


def test_lz4(broker):
    round_trip(broker, "rdkafka-lz4", 10000, **{"compression.type": "lz4"})


def test_zstd(broker):
    round_trip(broker, "rdkafka-zstd", 10000, **{"compression.type": "zstd"})


def test_acks_and_small_batches(broker):
    with Connection(broker.address) as c:
        c.create_topic("rdkafka-acks")
    for acks in ("0", "1", "all"):
        config = {"enable.idempotence": False, "acks": acks, "linger.ms": 0, "batch.num.messages": 1}
        offsets = produce(broker, "rdkafka-acks", [(0, None, b"%s-%d" % (acks.encode(), n), None, 0) for n in range(500)], **config)
        assert acks == "0" or not any(o is None or not isinstance(o, int) for o in offsets), offsets[:3]
    got = [m.value() for m in read(consumer_of(broker, "rdkafka-acks", 1, OFFSET_BEGINNING), 1500)]
    for acks in (b"0", b"1", b"all"):
        assert [v for v in got if v.startswith(acks + b"-")] == [b"%s-%d" % (acks, n) for n in range(500)]


def test_far_behind_and_at_the_tail(broker):
    """One reads 192 MiB from the start, one waits at the end, while a producer goes on: both get everything, in order."""
    old, size, more = 19200, 10240, 3000
    create(broker, "tail", 2)
    filler = b"x" * (size - 8)
    produce(broker, "tail", [(n % 2, None, b"%08d" % (n // 2) + filler, None, 0) for n in range(old)], **{"batch.size": 1 << 19})
    tail = consumer_of(broker, "tail", 2, OFFSET_END)
    assert tail.consume(1, 2.0) == []  # it has found the end before anything new comes
    behind = consumer_of(broker, "tail", 2, OFFSET_BEGINNING)
    failures = []

    def follow(consumer, first, count):
        try:
            positions = [first, first]
            for _ in range(0, count, 500):
                for m in read(consumer, min(500, count)):
                    assert m.offset() == positions[m.partition()] and m.value()[:8] == b"%08d" % m.offset(), (m.partition(), m.offset(), positions)
                    positions[m.partition()] += 1
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [
        threading.Thread(target=follow, args=(behind, 0, old + more - (old + more) % 500), daemon=True),
        threading.Thread(target=follow, args=(tail, old // 2, more), daemon=True),
    ]
    for thread in threads:
        thread.start()
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "linger.ms": 1})
    for n in range(more):
        producer.produce("tail", b"%08d" % (old // 2 + n // 2) + filler, partition=n % 2)
        producer.poll(0.001)
    assert producer.flush(60) == 0
    for thread in threads:
        thread.join(120)
    assert not failures, failures
    assert not any(t.is_alive() for t in threads), "a consumer has not come to the end"
    behind.close()
    tail.close()


def test_metadata_and_delete(broker):
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    create(broker, "admin", 6, **{"max.message.bytes": "50000"})
    listed = admin.list_topics("admin", timeout=30).topics["admin"]
    assert listed.error is None and len(listed.partitions) == 6
    admin.delete_topics(["admin"])["admin"].result(60)
    deadline = time.monotonic() + 30
    while "admin" in admin.list_topics(timeout=30).topics:
        assert time.monotonic() < deadline, "still listed"
        time.sleep(0.1)
