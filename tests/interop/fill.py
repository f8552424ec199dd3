"""Fills a broker with every kind of batch, and reads everything back, for the tests that compare files and brokers."""

import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic

# Topic: partitions and settings. Segments are as small as they may be.
TOPICS = {
    "codecs": (3, {}),
    "stamped": (1, {"message.timestamp.type": "LogAppendTime"}),
    "segments": (1, {"segment.bytes": "1048576", "index.interval.bytes": "512"}),
    "dotted.name-x_y": (2, {"retention.ms": "3600000"}),
}
COMPACTED = {"compacted": (1, {"cleanup.policy": "compact", "segment.bytes": "1048576", "min.cleanable.dirty.ratio": "0.01", "segment.ms": "1000", "delete.retention.ms": "100"})}
# For a broker that is to compact while the test waits.
EAGER_CLEANER = {"log.cleaner.backoff.ms": 200, "log.initial.task.delay.ms": 200}


def create(broker, topics):
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    new = [NewTopic(name, partitions, 1, config=config) for name, (partitions, config) in topics.items()]
    for done in admin.create_topics(new).values():
        done.result(60)
    return admin


def producer(broker, **config):
    return Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 10, "queue.buffering.max.messages": 1_000_000, **config})


def flush(p):
    assert p.flush(120) == 0, "not all records are delivered"


def fill(broker):
    """All codecs, headers, null keys and values, idempotent producers and others, LogAppendTime, several segments."""
    create(broker, TOPICS)
    for number, codec in enumerate(("none", "gzip", "snappy", "lz4", "zstd")):
        p = producer(broker, **{"compression.type": codec, "enable.idempotence": number % 2 == 0})
        for n in range(300):
            value = None if n % 50 == 7 else f"value-{codec}-{n}-é" * 3
            headers = [("first", b"v"), ("second", None)] if n % 10 == 0 else None
            p.produce("codecs", value, None if n % 3 == 0 else f"key{n}", n % 3, headers=headers, timestamp=1_700_000_000_000 + n * 1000)
            if n == 150:
                flush(p)
        p.produce("stamped", b"\xff\xfe\x00binary \xed\xa0\x80 \xed\xbf \xe0\x80\x80 \xed")
        p.produce("dotted.name-x_y", codec, "k", number % 2)
        flush(p)
    p = producer(broker, **{"batch.num.messages": 10})
    for n in range(30_000):
        p.produce("segments", "x" * 60, str(n))
    flush(p)


def compact(broker, gone):
    """Several segments with few keys; returns once `gone()` says that records have been compacted away."""
    create(broker, COMPACTED)
    p = producer(broker)
    for turn in range(5):
        for n in range(3000):
            p.produce("compacted", None if n % 41 == 0 else f"{turn}-{n}-" + "y" * 100, str(n % (200 + 17 * turn)))
            if n % 1000 == 0:
                flush(p)
        flush(p)
    deadline = time.monotonic() + 60
    while not gone():
        assert time.monotonic() < deadline, "nothing is compacted"
        # The active segment is never compacted: a new record after segment.ms begins the next one.
        p.produce("compacted", "more", "more")
        flush(p)
        time.sleep(0.5)


def transactions(broker):
    """Committed, aborted and open ones, over two partitions. The producer is returned: its end would abort the open one."""
    create(broker, {"transactional": (2, {})})
    p = producer(broker, **{"transactional.id": "t"})
    p.init_transactions(60)
    for turn in range(6):
        p.begin_transaction()
        for n in range(6):
            p.produce("transactional", f"{turn}-{n}", str(turn), n % 2)
        flush(p)
        p.commit_transaction(60) if turn % 3 else p.abort_transaction(60)
    p.begin_transaction()
    p.produce("transactional", "open", partition=0)
    flush(p)
    return p


def change(admin):
    """Settings set, changed and removed; more partitions; a topic deleted."""

    def alter(topic, name, value, operation):
        entry = ConfigEntry(name, value, incremental_operation=operation)
        for done in admin.incremental_alter_configs([ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])]).values():
            done.result(60)

    alter("codecs", "retention.ms", "7200000", AlterConfigOpType.SET)
    alter("dotted.name-x_y", "max.message.bytes", "70000", AlterConfigOpType.SET)
    alter("dotted.name-x_y", "retention.ms", None, AlterConfigOpType.DELETE)
    admin.create_partitions([NewPartitions("dotted.name-x_y", 5)])["dotted.name-x_y"].result(60)
    admin.create_topics([NewTopic("gone", 1, 1)])["gone"].result(60)
    admin.delete_topics(["gone"])["gone"].result(60)


def read_all(broker):
    """Every record of every topic: {(topic, partition): (low, high, [(offset, key, value, headers, timestamp)])}."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "none", "enable.auto.commit": False, "isolation.level": "read_uncommitted", "check.crcs": True, "enable.partition.eof": True, "auto.offset.reset": "error"})
    found = {}
    for topic in consumer.list_topics(timeout=60).topics.values():
        for partition in topic.partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic.topic, partition), timeout=60)
            found[topic.topic, partition] = (low, high, [])
    waiting = {where for where, (low, high, _) in found.items() if high > low}
    consumer.assign([TopicPartition(*where, found[where][0]) for where in waiting])
    deadline = time.monotonic() + 120
    while waiting:
        assert time.monotonic() < deadline, f"no end of {waiting}"
        for message in consumer.consume(10_000, 1.0):
            where = message.topic(), message.partition()
            if message.error():
                assert message.error().name() == "_PARTITION_EOF", message.error()
                waiting.discard(where)
            else:
                found[where][2].append((message.offset(), message.key(), message.value(), message.headers(), message.timestamp()))
    consumer.close()
    return found
