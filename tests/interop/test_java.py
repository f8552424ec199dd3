"""Kafka's own command line tools: kafka-topics, kafka-console-producer, kafka-console-consumer."""

import re

from harness import java
from raw import Connection, values

TOPICS, PRODUCER, CONSUMER = "org.apache.kafka.tools.TopicCommand", "org.apache.kafka.tools.ConsoleProducer", "org.apache.kafka.tools.consumer.ConsoleConsumer"


def topics(broker, *args):
    return java(TOPICS, "--bootstrap-server", broker.bootstrap, *args)


def test_topics(broker):
    """--create, --list, --describe, --delete, in the shapes that scripts parse."""
    code, out, err = topics(broker, "--create", "--topic", "jt", "--partitions", "3", "--replication-factor", "1", "--config", "max.message.bytes=64000")
    assert (code, out) == (0, "Created topic jt.\n"), (code, out, err)
    code, out, err = topics(broker, "--list")
    assert code == 0 and "jt" in out.splitlines(), (code, out, err)

    code, out, err = topics(broker, "--describe", "--topic", "jt")
    assert code == 0, (code, out, err)
    head, *rest = out.splitlines()
    with Connection(broker.address) as c:
        node = c.call("Metadata", 9, {"Topics": []}).ControllerId
    found = re.fullmatch(r"Topic: jt\tTopicId: ([\w-]{22})\tPartitionCount: 3\tReplicationFactor: 1\tConfigs: (\S+)", head)
    assert found, head
    assert "max.message.bytes=64000" in found[2].split(",") and all("=" in config for config in found[2].split(",")), head
    for partition, line in enumerate(rest):
        assert re.fullmatch(rf"\tTopic: jt\tPartition: {partition}\tLeader: {node}\tReplicas: {node}\tIsr: {node}\tElr: (N/A)?\tLastKnownElr: (N/A)?", line), repr(line)
    assert len(rest) == 3, out

    code, out, err = topics(broker, "--create", "--topic", "jt")
    assert code == 1 and "Topic 'jt' already exists." in out + err, (code, out, err)
    code, out, err = topics(broker, "--create", "--topic", "jt", "--if-not-exists")
    assert code == 0, (code, out, err)

    code, out, err = topics(broker, "--delete", "--topic", "jt")
    assert code == 0 and out == "", (code, out, err)
    code, out, err = topics(broker, "--describe", "--topic", "jt")
    assert code == 1 and "Topic 'jt' does not exist as expected" in out + err, (code, out, err)
    code, out, err = topics(broker, "--create", "--topic", "jt")
    assert code == 0, (code, out, err)
    code, out, err = topics(broker, "--describe", "--topic", "jt")
    again = re.match(r"Topic: jt\tTopicId: ([\w-]{22})\tPartitionCount: 1\t", out)
    assert again and again[1] != found[1], (out, found[1])


def test_topics_describe_filters(broker):
    """The filters that monitoring scripts use."""
    with Connection(broker.address) as c:
        c.create_topic("filtered", 2)
    for flag in ("--under-replicated-partitions", "--unavailable-partitions"):
        code, out, err = topics(broker, "--describe", flag)
        assert (code, out.strip()) == (0, ""), (flag, code, out, err)
    code, out, err = topics(broker, "--describe", "--topic", "filtered", "--exclude-internal")
    assert code == 0 and len(out.splitlines()) == 3, (code, out, err)


def test_topics_errors(broker):
    for args, text in (
        (("--create", "--topic", "a/b"), "Topic name \"a/b\" is illegal"),
        (("--create", "--topic", "ok", "--replication-factor", "3"), "The target replication factor of 3 cannot be reached"),
        (("--delete", "--topic", "not-there"), "Topic 'not-there' does not exist as expected"),
    ):
        code, out, err = topics(broker, *args)
        assert code == 1, (args, code, out, err)
        assert text in out + err or "InvalidTopicException" in out + err, (args, out, err)


def test_console_producer_and_consumer(broker):
    with Connection(broker.address) as c:
        c.create_topic("console", 2)
    lines = "".join(f"key{n}:value {n}\n" for n in range(2000))
    code, out, err = java(
        PRODUCER, "--bootstrap-server", broker.bootstrap, "--topic", "console", "--reader-property", "parse.key=true",
        "--reader-property", "key.separator=:", "--compression-codec", "lz4", stdin=lines,
    )
    assert code == 0, (code, out, err)
    got = []
    with Connection(broker.address) as c:
        counts = [c.list_offset("console", p, -1).Offset for p in range(2)]
    assert sum(counts) == 2000, counts
    for partition in range(2):
        code, out, err = java(
            CONSUMER, "--bootstrap-server", broker.bootstrap, "--topic", "console", "--partition", str(partition), "--offset", "earliest",
            "--max-messages", str(counts[partition]), "--timeout-ms", "60000", "--formatter-property", "print.key=true", "--formatter-property", "print.offset=true",
        )
        assert code == 0, (code, out, err)
        assert f"Processed a total of {counts[partition]} messages" in err, err
        for offset, line in enumerate(out.splitlines()):
            where, key, value = line.split("\t")
            assert where == f"Offset:{offset}", line
            got.append(f"{key}:{value}\n")
    order = {line: n for n, line in enumerate(lines.splitlines(True))}
    assert sorted(got, key=order.__getitem__) == lines.splitlines(True)


def test_console_producer_options(broker):
    """Without idempotence and with acks=1, and to a topic that has to be made first."""
    code, out, err = java(
        PRODUCER, "--bootstrap-server", broker.bootstrap, "--topic", "console-made", "--command-property", "enable.idempotence=false",
        "--command-property", "acks=1", stdin="one\ntwo\nthree\n",
    )
    assert code == 0, (code, out, err)
    with Connection(broker.address) as c:
        assert values(c.fetch_all("console-made", 0)) == [b"one", b"two", b"three"]
    code, out, err = java(CONSUMER, "--bootstrap-server", broker.bootstrap, "--topic", "console-made", "--partition", "0", "--offset", "1", "--max-messages", "2", "--timeout-ms", "60000")
    assert (code, out) == (0, "two\nthree\n"), (code, out, err)
