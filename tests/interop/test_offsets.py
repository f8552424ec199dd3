"""ListOffsets and OffsetForLeaderEpoch."""

from confluent_kafka import Consumer, TopicPartition

from raw import GZIP, Connection, batch
from test_logs import delete_records

OVERRIDES = {"auto.create.topics.enable": "false"}

UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_LEADER_EPOCH = 3, 75
LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED = -1, -2, -3, -4, -5


def answer(c, topic, timestamp, version=8):
    part = c.list_offset(topic, 0, timestamp, version)
    assert part.ErrorCode == 0, part
    return part.Offset, part.Timestamp


def fill(c, topic, attributes=0):
    """Offsets 0-2 at 1000, 1010, 1020; 3-5 at 2000, 1500 (out of order), 2020; 6 at 1100 (late); 7-8 at 3000."""
    for times in ((1000, 1010, 1020), (2000, 1500, 2020), (1100,), (3000, 3000)):
        c.produce_ok(topic, 0, batch([b"x"] * len(times), timestamps=list(times), attributes=attributes))


def check_times(c, topic):
    for version in range(1, 12):
        for asked, found in (
            (LATEST, (9, -1)), (EARLIEST, (0, -1)), (0, (0, 1000)), (1000, (0, 1000)), (1001, (1, 1010)), (1020, (2, 1020)), (1021, (3, 2000)),
            (2001, (5, 2020)), (2020, (5, 2020)), (2021, (7, 3000)), (3000, (7, 3000)), (3001, (-1, -1)), (2**63 - 1, (-1, -1)),
        ):
            got = answer(c, topic, asked, version)
            assert got == found, f"v{version}: asked for {asked}, got {got}, not {found}"
    assert answer(c, topic, MAX_TIMESTAMP) == (7, 3000)


def test_by_timestamp(broker):
    """The first record whose own timestamp is not before the one asked for, with that timestamp."""
    with Connection(broker.address) as c:
        c.create_topic("times")
        fill(c, "times")
        check_times(c, "times")


def test_by_timestamp_compressed(broker):
    with Connection(broker.address) as c:
        c.create_topic("times-gzip")
        fill(c, "times-gzip", GZIP)
        check_times(c, "times-gzip")


def test_max_timestamp(broker):
    with Connection(broker.address) as c:
        c.create_topic("max")
        assert answer(c, "max", MAX_TIMESTAMP) == (-1, -1)
        c.produce_ok("max", 0, batch([b"a", b"b", b"c"], timestamps=[10, 5000, 20]))
        c.produce_ok("max", 0, batch([b"d", b"e"], timestamps=[30, 4000]))
        assert answer(c, "max", MAX_TIMESTAMP) == (1, 5000)
        c.produce_ok("max", 0, batch([b"f", b"g"], timestamps=[6000, 40]))
        assert answer(c, "max", MAX_TIMESTAMP) == (5, 6000)


def test_max_timestamp_of_deleted_records(broker):
    """As long as its segment is there the deleted record is told, with the leader epoch of its batch."""
    with Connection(broker.address) as c:
        for attributes in (0, GZIP):
            for upto in (2, 3, 5):
                topic = f"deleted-max-{attributes}-{upto}"
                c.create_topic(topic)
                for times in ([1000, 5000, 2000], [10, 20]):
                    records = [b"x"] * len(times)
                    c.produce_ok(topic, 0, batch(records, timestamps=times, attributes=attributes))
                assert delete_records(c, {topic: {0: upto}}) == {(topic, 0): (0, upto)}
                for version in range(7, 12):
                    part = c.list_offset(topic, 0, MAX_TIMESTAMP, version)
                    found = part.ErrorCode, part.Offset, part.Timestamp, part.LeaderEpoch
                    assert found == (0, 1, 5000, 0), (topic, version, part)


def test_by_timestamp_after_deletion_into_a_batch(broker):
    """What is answered can be fetched from, by a consumer too."""
    times = [1000 + n for n in range(50)]
    with Connection(broker.address) as c:
        for attributes in (0, GZIP):
            topic = f"cut-{attributes}"
            c.create_topic(topic)
            for part in (times, [5000, 2000, 4000]):
                records = [b"x"] * len(part)
                c.produce_ok(topic, 0, batch(records, timestamps=part, attributes=attributes))
            assert delete_records(c, {topic: {0: 20}}) == {(topic, 0): (0, 20)}
            for version in range(1, 12):
                for asked, found in ((0, (20, 1020)), (1000, (20, 1020)), (1020, (20, 1020)), (1021, (21, 1021)), (1050, (50, 5000))):
                    assert answer(c, topic, asked, version) == found, (topic, version, asked)
            assert read_from(broker, topic, 1000) == list(range(20, 53)), topic
            assert delete_records(c, {topic: {0: 51}}) == {(topic, 0): (0, 51)}
            for version in range(1, 12):
                for asked, found in ((0, (51, 2000)), (2001, (52, 4000)), (4001, (-1, -1))):
                    assert answer(c, topic, asked, version) == found, (topic, version, asked)
            assert read_from(broker, topic, 1000) == [51, 52], topic


def read_from(broker, topic, timestamp):
    """The offsets that a consumer reads that seeks to a timestamp."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g", "auto.offset.reset": "error"})
    (found,) = consumer.offsets_for_times([TopicPartition(topic, 0, timestamp)], timeout=30)
    consumer.assign([found])
    end, offsets = consumer.get_watermark_offsets(found, timeout=30)[1], []
    while not offsets or offsets[-1] + 1 < end:
        message = consumer.poll(30)
        assert message is not None and message.error() is None, (offsets, message and message.error())
        offsets.append(message.offset())
    consumer.close()
    return offsets


def test_max_timestamp_of_records_without_one(broker):
    with Connection(broker.address) as c:
        c.create_topic("timeless")
        c.produce_ok("timeless", 0, batch([b"a", b"b"], timestamps=[-1, -1]))
        part = c.list_offset("timeless", 0, MAX_TIMESTAMP)
        found = part.ErrorCode, part.Offset, part.Timestamp, part.LeaderEpoch
        assert found == (0, 0, -1, 0), part
        assert answer(c, "timeless", 0) == (-1, -1)


def test_empty_partition(broker):
    with Connection(broker.address) as c:
        c.create_topic("empty")
        for version in range(1, 12):
            assert answer(c, "empty", LATEST, version) == (0, -1)
            assert answer(c, "empty", EARLIEST, version) == (0, -1)
            assert answer(c, "empty", 1000, version) == (-1, -1)


def test_special_timestamps(broker):
    with Connection(broker.address) as c:
        c.create_topic("special")
        fill(c, "special")
        assert answer(c, "special", EARLIEST_LOCAL, 8) == (0, -1)
        assert answer(c, "special", LATEST_TIERED, 9) == (-1, -1)


def test_unknown(broker):
    with Connection(broker.address) as c:
        c.create_topic("known", 2)
        for topic, partition in (("unknown", 0), ("known", 2), ("known", -1)):
            part = c.list_offset(topic, partition, LATEST)
            assert part.ErrorCode == UNKNOWN_TOPIC_OR_PARTITION and part.Offset == -1 and part.Timestamp == -1, part


def test_isolation_and_epoch(broker):
    with Connection(broker.address) as c:
        c.create_topic("isolation")
        fill(c, "isolation")
        assert c.list_offset("isolation", 0, LATEST, isolation=1).Offset == 9
        for version in range(4, 12):
            assert c.list_offset("isolation", 0, LATEST, version).LeaderEpoch == 0, version
        body = {"Topics": [{"Name": "isolation", "Partitions": [{"PartitionIndex": 0, "Timestamp": -1, "CurrentLeaderEpoch": 3}]}]}
        assert c.call("ListOffsets", 8, body).Topics[0].Partitions[0].ErrorCode == UNKNOWN_LEADER_EPOCH


def test_offset_for_leader_epoch(broker):
    with Connection(broker.address) as c:
        c.create_topic("epochs")
        fill(c, "epochs")
        for version in range(2, 5):
            for asked, found in ((0, (0, 9)), (1, (-1, -1)), (100, (-1, -1))):
                body = {"Topics": [{"Topic": "epochs", "Partitions": [{"Partition": 0, "CurrentLeaderEpoch": -1, "LeaderEpoch": asked}]}]}
                part = c.call("OffsetForLeaderEpoch", version, body).Topics[0].Partitions[0]
                assert part.ErrorCode == 0 and (part.LeaderEpoch, part.EndOffset) == found, (version, asked, part)
        for topic, partition, epoch, wanted in (("epochs", 5, -1, UNKNOWN_TOPIC_OR_PARTITION), ("nix", 0, -1, UNKNOWN_TOPIC_OR_PARTITION), ("epochs", 0, 7, UNKNOWN_LEADER_EPOCH)):
            body = {"Topics": [{"Topic": topic, "Partitions": [{"Partition": partition, "CurrentLeaderEpoch": epoch, "LeaderEpoch": 0}]}]}
            assert c.call("OffsetForLeaderEpoch", 4, body).Topics[0].Partitions[0].ErrorCode == wanted
