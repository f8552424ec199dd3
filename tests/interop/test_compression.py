"""`compression.type` of a topic: batches in another codec are compressed anew by the broker."""

import os
import time

from confluent_kafka import Consumer, Producer, TopicPartition

from harness import eventually, java
from raw import GZIP, LOG_APPEND_TIME, Connection, batch, parse_batches

CODECS = ("uncompressed", "gzip", "snappy", "lz4", "zstd")
MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE, INVALID_TIMESTAMP = 10, 18, 32
COUNT = 300
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
BIG = 2**63 - 1
INIT = {"TransactionalId": None, "TransactionTimeoutMs": 60000, "ProducerId": -1, "ProducerEpoch": -1}


def stored(c, topic):
    return c.fetch_all(topic, 0)


def codecs(c, topic):
    return {b.attributes & 7 for b in stored(c, topic)}


def produce(broker, topic, codec):
    """Records with keys, headers, tombstones and times out of order, as a real client sends them."""
    producer = Producer({
        "bootstrap.servers": broker.bootstrap, "compression.type": "none" if codec == "uncompressed" else codec,
        "enable.idempotence": True, "linger.ms": 50,
    })
    now = int(time.time() * 1000)
    sent = []
    for n in range(COUNT):
        value = None if n % 7 == 0 else b"%04d" % n * 25
        sent.append((b"k%d" % n, value, [("h", b"%d" % n)], now - n % 10))
        key, value, headers, timestamp = sent[-1]
        producer.produce(topic, value, key, 0, timestamp=timestamp, headers=headers)
    assert producer.flush(60) == 0
    return sent


def consume(broker, topic):
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g", "check.crcs": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    got = []
    while len(got) < COUNT:
        message = consumer.poll(30)
        assert message is not None and message.error() is None, message and message.error()
        got.append((message.key(), message.value(), message.headers(), message.timestamp()[1]))
    consumer.close()
    return got


def test_every_codec_becomes_that_of_the_topic(broker):
    with Connection(broker.address) as c:
        for number, target in enumerate(CODECS):
            for source in CODECS:
                topic = f"{source}-to-{target}"
                c.create_topic(topic, compression_type=target)
                sent = produce(broker, topic, source)
                assert codecs(c, topic) == {number}, topic
                assert {b.producer[0] >= 0 for b in stored(c, topic)} == {True}, topic
                assert consume(broker, topic) == sent, topic


def test_what_is_in_the_codec_stays(broker):
    """Byte for byte, whatever the level; and all is as it was sent with `producer`."""
    with Connection(broker.address) as c:
        for settings in ({"compression_type": "gzip", "compression_gzip_level": 1}, {"compression_type": "producer"}, {}):
            topic = f"as-sent-{len(settings)}"
            c.create_topic(topic, **settings)
            records = batch([b"%d" % n for n in range(500)], attributes=GZIP)
            c.produce_ok(topic, 0, records)
            got = c.fetch(topic, {0: 0})[0].Records
            # Offset and leader epoch are the broker's.
            assert got[16:] == records[16:], topic
        c.create_topic("plain", compression_type="uncompressed")
        records = batch([b"%d" % n for n in range(500)])
        c.produce_ok("plain", 0, records)
        assert c.fetch("plain", {0: 0})[0].Records[16:] == records[16:]


def test_levels(broker):
    values = [b"%06d" % (n * n) * 10 for n in range(3000)]
    with Connection(broker.address) as c:
        # 9 of lz4, the default, is the fast one.
        for codec, low, high in (("gzip", 1, 9), ("zstd", 1, 19), ("lz4", 9, 12), ("lz4", 9, 1)):
            sizes = []
            for level in (low, high):
                topic = f"{codec}-{level}-{high}"
                c.create_topic(topic, **{"compression_type": codec, f"compression_{codec}_level": level})
                c.produce_ok(topic, 0, batch(values))
                sizes.append(sum(b.size for b in stored(c, topic)))
                check = java(CONSUMER, "--bootstrap-server", broker.bootstrap, "--topic", topic, "--from-beginning", "--max-messages", str(len(values)))
                assert check[0] == 0 and check[1].splitlines() == [v.decode() for v in values], (topic, check[2])
            assert sizes[1] < sizes[0], (codec, sizes)


def test_header_fields_are_kept(broker):
    with Connection(broker.address) as c:
        answer = eventually(lambda: (a := c.call("InitProducerId", 4, INIT)).ErrorCode == 0 and a)
        pid, epoch = answer.ProducerId, answer.ProducerEpoch
        for kind in ("CreateTime", "LogAppendTime"):
            topic = f"kept-{kind}"
            c.create_topic(topic, compression_type="gzip", message_timestamp_type=kind, message_timestamp_after_max_ms=BIG)
            for sequence in (0, 0, 3, 6):
                times = [3000, -1, 5000]
                records = [(b"k", b"a"), (None, b"b"), (b"t", None)]
                sent = batch(records, producer=(pid, epoch, sequence), timestamps=times, max_timestamp=77)
                assert c.produce_ok(topic, 0, sent) == sequence, topic
            got = stored(c, topic)
            assert [(b.base_offset, b.next_offset, b.producer) for b in got] == [(n, n + 3, (pid, epoch, n)) for n in (0, 3, 6)], topic
            for b in got:
                assert [(r.key, r.value) for r in b.records] == records, topic
                if kind == "CreateTime":
                    assert (b.attributes, b.max_timestamp) == (GZIP, 5000), topic
                    assert [r.timestamp for r in b.records] == times, topic
                else:
                    assert b.attributes == GZIP | LOG_APPEND_TIME and b.max_timestamp > 10**12, topic


def test_what_becomes_too_long(broker):
    with Connection(broker.address) as c:
        c.create_topic("bomb", compression_type="uncompressed", max_message_bytes=10_000)
        assert c.produce("bomb", 0, batch([b"x" * 20_000], attributes=GZIP)).ErrorCode == MESSAGE_TOO_LARGE
        late = batch([b"x" * 20_000], attributes=GZIP, timestamps=[10**15])
        assert c.produce("bomb", 0, late).ErrorCode == INVALID_TIMESTAMP
        assert c.produce_ok("bomb", 0, batch([b"x" * 9900], attributes=GZIP)) == 0
        c.create_topic("grows", compression_type="gzip", max_message_bytes=1000)
        records = batch([os.urandom(930)])
        assert len(records) <= 1000
        assert c.produce("grows", 0, records).ErrorCode == MESSAGE_TOO_LARGE
        # Nor does it help that a batch that is too long would become short.
        assert c.produce("grows", 0, batch([b"x" * 2000])).ErrorCode == MESSAGE_TOO_LARGE
        c.create_topic("segment", compression_type="uncompressed", max_message_bytes=10 << 20, segment_bytes=1 << 20)
        assert c.produce("segment", 0, batch([b"x" * (2 << 20)], attributes=GZIP)).ErrorCode == RECORD_LIST_TOO_LARGE


def test_the_order_of_requests_is_kept(broker):
    """Requests of one connection, some of which are compressed anew, and one of several partitions."""
    with Connection(broker.address) as c:
        c.create_topic("order", compression_type="gzip")
        for n in range(60):
            records = batch([b"%d" % n * (5000 if n % 3 else 1)], attributes=GZIP if n % 2 else 0)
            c.send("Produce", 9, {"Acks": -1, "TimeoutMs": 30000, "TopicData": [{"Name": "order", "PartitionData": [{"Index": 0, "Records": records}]}]})
        answers = [c.receive().Responses[0].PartitionResponses[0] for _ in range(60)]
        assert [(a.ErrorCode, a.BaseOffset) for a in answers] == [(0, n) for n in range(60)]
        got = [r.value for b in stored(c, "order") for r in b.records]
        assert got == [b"%d" % n * (5000 if n % 3 else 1) for n in range(60)]


def test_a_change_is_in_force_for_the_next_batch(broker):
    with Connection(broker.address) as c:
        c.create_topic("changes", compression_type="gzip")
        c.produce_ok("changes", 0, batch([b"a"]))
        resource = {"ResourceType": 2, "ResourceName": "changes", "Configs": [{"Name": "compression.type", "ConfigOperation": 0, "Value": "lz4"}]}
        assert c.call("IncrementalAlterConfigs", 1, {"Resources": [resource]}).Responses[0].ErrorCode == 0

        def next_codec():
            offset = c.produce_ok("changes", 0, batch([b"b"]))
            return parse_batches(c.fetch("changes", {0: offset})[0].Records)[0].attributes & 7

        eventually(lambda: next_codec() == CODECS.index("lz4"))
        assert stored(c, "changes")[0].attributes & 7 == GZIP
