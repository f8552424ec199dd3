"""Corelane's command line tools beside Kafka's own: the same command lines against the same broker, the same texts.

What may differ: Java shows some things in the order of a hash, so lines and lists of settings are compared sorted; behind a refused command
line Kafka prints its whole help and behind other errors its stack, so of standard error only the first line counts.
"""

import json
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

from harness import CORELANE, LIBS, Broker, eventually, free_port, java, temp_dir
from raw import Connection

CLASSES = {
    "topics": "org.apache.kafka.tools.TopicCommand",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "configs": "kafka.admin.ConfigCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
}
OVERRIDES = {"group_initial_rebalance_delay_ms": 0}


def ours(broker, tool, *args, stdin=None):
    """Runs one of our tools; returns (exit code, stdout, stderr)."""
    command = [CORELANE, tool, "--bootstrap-server", broker.bootstrap, *args]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def kafkas(broker, tool, *args, stdin=None):
    return java(CLASSES[tool], "--bootstrap-server", broker.bootstrap, *args, stdin=stdin)


def comparable(text):
    """Lines in order, each with its settings in order."""
    settings = lambda line: re.sub(r"(?<=Configs: )\S+", lambda found: ",".join(sorted(found[0].split(","))), line)
    return sorted(settings(line) for line in text.splitlines())


def same(broker, commands, stderr=False):
    """Runs command lines, which must change nothing, through both tools and compares. Two at a time, as Java takes its time."""

    def compare(command):
        theirs, mine = kafkas(broker, *command), ours(broker, *command)
        assert mine[0] == theirs[0], (command, mine, theirs)
        assert comparable(mine[1]) == comparable(theirs[1]), (command, mine, theirs)
        if stderr:
            assert mine[2].splitlines()[:1] == theirs[2].splitlines()[:1], (command, mine[2], theirs[2][:500])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compare, commands))


def has(broker, key):
    """Whether the broker has an API; a test of a tool that needs it is left out where it does not."""
    with Connection(broker.address) as c:
        return any(api.ApiKey == key for api in c.call("ApiVersions", 3, {"ClientSoftwareName": "t", "ClientSoftwareVersion": "1"}).ApiKeys)


def made(broker, topic, partitions):
    code, out, err = ours(broker, "topics", "--create", "--topic", topic, "--partitions", str(partitions))
    assert (code, out) == (0, f"Created topic {topic}.\n"), (code, out, err)


def test_topics(broker):
    code, out, err = ours(broker, "topics", "--create", "--topic", "tt.a", "--partitions", "3", "--config", "retention.ms=86400000", "--config", "max.message.bytes=64000")
    assert code == 0 and out.endswith("\nCreated topic tt.a.\n"), (code, out, err)
    made(broker, "tt-b", 1)
    same(broker, [
        ("topics", "--list"),
        ("topics", "--describe", "--topic", "tt.*"),
        ("topics", "--describe", "--topics-with-overrides"),
        ("topics", "--describe", "--at-min-isr-partitions", "--topic", "tt-b,tt.a"),
        ("topics", "--describe", "--topic", "gone"),
        ("topics", "--create", "--topic", "tt-b"),
        ("topics", "--create", "--topic", "tt-c", "--replication-factor", "3"),
        ("topics", "--create", "--topic", "tt-c", "--config", "nonsense=1"),
        ("topics", "--alter", "--topic", "tt.a", "--partitions", "2"),
    ])
    code, out, err = ours(broker, "topics", "--describe", "--topic", "tt.a", "--format", "json")
    described = json.loads(out)[0]
    assert described["partition_count"] == 3 and described["configs"]["retention.ms"] == "86400000", described
    code, out, err = ours(broker, "topics", "--describe", "--topic-id", described["topic_id"])
    assert code == 0 and out.startswith("Topic: tt.a\t") and "Elr: N/A" in out, (code, out, err)
    for quiet in (("--create", "--if-not-exists", "--topic", "tt-b"), ("--delete", "--if-exists", "--topic", "gone"), ("--delete", "--topic", "tt-b")):
        assert ours(broker, "topics", *quiet) == (0, "", ""), quiet
    assert "tt-b" not in ours(broker, "topics", "--list")[1]


def test_more_partitions(broker):
    """CreatePartitions by both tools; the new partitions take records at once."""
    made(broker, "tm", 1)
    assert ours(broker, "topics", "--alter", "--topic", "tm", "--partitions", "3") == (0, "", "")
    code, out, err = kafkas(broker, "topics", "--alter", "--topic", "tm", "--partitions", "5")
    assert (code, out) == (0, ""), (code, out, err)
    assert len(ours(broker, "topics", "--describe", "--topic", "tm")[1].splitlines()) == 6
    keys = "".join(f"k{n}\tv{n}\n" for n in range(100))
    code, out, err = ours(broker, "console-producer", "--topic", "tm", "--reader-property", "parse.key=true", stdin=keys)
    assert code == 0, (out, err)
    counts = [int(line.split(":")[2]) for line in ours(broker, "get-offsets", "--topic", "tm")[1].splitlines()]
    assert len(counts) == 5 and sum(counts) == 100 and all(counts), counts


def test_more_partitions_survive_a_crash():
    with Broker() as broker:
        made(broker, "tm", 1)
        assert ours(broker, "topics", "--alter", "--topic", "tm", "--partitions", "3") == (0, "", "")
        keys = "".join(f"k{n}\tv{n}\n" for n in range(30))
        assert ours(broker, "console-producer", "--topic", "tm", "--reader-property", "parse.key=true", stdin=keys)[0] == 0
        before = ours(broker, "get-offsets", "--topic", "tm")[1]
        broker.kill()
        broker.start()
        assert ours(broker, "get-offsets", "--topic", "tm")[1] == before and len(before.splitlines()) == 3, before


def test_refused_command_lines(broker):
    """The first line of what is said, and the exit code."""
    same(broker, [
        ("topics", "--list", "--create"),
        ("topics", "--list", "--nonsense"),
        ("consumer-groups",),
        ("get-offsets", "--time", "abc"),
        ("console-consumer", "--topic", "t", "--offset", "3"),
    ], stderr=True)


def test_nobody_there():
    """An error at once, that says what is wrong."""
    address = f"127.0.0.1:{free_port()}"
    for tool in (("topics", "--list"), ("get-offsets",), ("consumer-groups", "--list"), ("console-consumer", "--topic", "t"), ("console-producer", "--topic", "t")):
        done = subprocess.run([CORELANE, tool[0], "--bootstrap-server", address, *tool[1:]], input="line\n", capture_output=True, text=True, timeout=20)
        assert done.returncode == 1, done
        assert f"cannot reach {address}: Connection refused; is a broker listening there?" in done.stdout + done.stderr, done


def test_links(broker):
    """Called by the names of Kafka's scripts."""
    made(broker, "tl", 1)
    directory = temp_dir()
    for name in ("kafka-topics", "kafka-topics.sh"):
        link = os.path.join(directory, name)
        os.symlink(CORELANE, link)
        done = subprocess.run([link, "--bootstrap-server", broker.bootstrap, "--list"], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0 and "tl" in done.stdout.splitlines(), done


def test_console(broker):
    """What one producer sends the other consumer prints, in every compression; equal keys go to equal partitions."""
    made(broker, "tc", 3)
    props = ("--reader-property", "parse.key=true", "--reader-property", "parse.headers=true", "--reader-property", "null.marker=NIL")
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        lines = "".join(f"h:{codec},n:NIL\tkey{n}\t{codec} {n}\n" for n in range(50)) + f"NIL\tNIL\t{codec} without\n"
        code, out, err = ours(broker, "console-producer", "--topic", "tc", "--compression-codec", codec, *props, stdin=lines)
        assert (code, err) == (0, ""), (codec, code, out, err)
    lines = "".join(f"h:java,n:NIL\tkey{n}\tjava {n}\n" for n in range(50))
    code, out, err = kafkas(broker, "console-producer", "--topic", "tc", *props, stdin=lines)
    assert code == 0, (code, out, err)
    shown = [f"--formatter-property=print.{what}=true" for what in ("key", "headers", "partition", "offset", "timestamp")]
    args = ("console-consumer", "--topic", "tc", "--from-beginning", "--max-messages", "305", "--timeout-ms", "20000", *shown)
    theirs, mine = kafkas(broker, *args), ours(broker, *args)
    assert mine[0] == theirs[0] == 0 and len(mine[1].splitlines()) == 305, (mine, theirs)
    assert sorted(mine[1].splitlines()) == sorted(theirs[1].splitlines())
    assert mine[2].endswith("Processed a total of 305 messages\n"), mine[2]
    places = {}
    for line in mine[1].splitlines():
        time, partition, offset, headers, key, value = line.split("\t")
        places.setdefault(key, set()).add(partition)
    assert all(len(partitions) == 1 for key, partitions in places.items() if key != "null"), places


def test_console_partition(broker):
    made(broker, "tp", 1)
    assert ours(broker, "console-producer", "--topic", "tp", "--sync", "--request-required-acks", "1", stdin="a\nb\nc\n")[0] == 0
    one = ("console-consumer", "--topic", "tp", "--partition", "0", "--timeout-ms", "500")
    assert ours(broker, *one, "--offset", "1") == (0, "b\nc\n", "Processed a total of 2 messages\n")
    assert ours(broker, *one, "--from-beginning", "--max-messages", "1")[1] == "a\n"
    assert ours(broker, *one)[1] == ""
    assert ours(broker, "console-consumer", "--include", "t[p]", "--from-beginning", "--timeout-ms", "500")[1] == "a\nb\nc\n"
    code, out, err = ours(broker, "console-producer", "--topic", "tp", "--reader-property", "parse.key=true", stdin="nokey\n")
    assert code == 1 and "No key separator found on line number 1: 'nokey'" in err, (code, out, err)


def test_broken_pipe(broker):
    """Nobody reads any more: no complaint but one line, no hanging."""
    made(broker, "tb", 1)
    assert ours(broker, "console-producer", "--topic", "tb", stdin="a longer line\n" * 30_000)[0] == 0
    consume = f"'{CORELANE}' console-consumer --bootstrap-server {broker.bootstrap} --topic tb --from-beginning | head -1"
    done = subprocess.run(["sh", "-c", consume], capture_output=True, text=True, timeout=30)
    assert done.stdout == "a longer line\n" and "panicked" not in done.stderr, done


def test_output_that_cannot_be_written(broker):
    """A disk without room behind standard output: no tool ends as if all had been written."""
    made(broker, "tw", 1)
    assert ours(broker, "console-producer", "--topic", "tw", stdin="x\n" * 10)[0] == 0
    connect = ["--bootstrap-server", broker.bootstrap]
    for command in (
        ["topics", *connect, "--list"],
        ["topics", *connect, "--list", "--format", "json"],
        ["console-consumer", *connect, "--topic", "tw", "--from-beginning", "--max-messages", "5"],
        ["consumer-groups", *connect, "--list", "--format", "json"],
        ["configs", *connect, "--describe", "--topic", "tw"],
        ["get-offsets", *connect, "--topic", "tw"],
        ["dump-log", "--files", "of-no-kind"],
        ["--help"],
        ["--version"],
        ["topics", "--help"],
    ):
        with open("/dev/full", "w") as full:
            done = subprocess.run([CORELANE, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 1 and "No space left on device" in done.stderr, (command, done)
        assert "panicked" not in done.stderr, (command, done)
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w") as closed:
            done = subprocess.run([CORELANE, *command], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
        assert "panicked" not in done.stderr and "Broken pipe" not in done.stderr, (command, done)
    # A group has not consumed what was not printed.
    consume = [CORELANE, "console-consumer", *connect, "--topic", "tw", "--from-beginning", "--group", "gw"]
    with open("/dev/full", "w") as full:
        assert subprocess.run(consume, stdout=full, stderr=subprocess.DEVNULL, timeout=60).returncode == 1
    described = ours(broker, "consumer-groups", "--describe", "--group", "gw")[1]
    assert all(line.split()[3] in "-0" for line in described.splitlines()[2:]), described


def test_offsets(broker):
    made(broker, "to", 12)
    assert ours(broker, "console-producer", "--topic", "to", stdin="x\n" * 30)[0] == 0
    same(broker, [
        ("get-offsets", "--topic", "to"),
        ("get-offsets", "--topic-partitions", "to:0-2,t[o]:11"),
        ("get-offsets", "--topic", "to", "--time", "earliest"),
        ("get-offsets", "--topic", "gone"),
    ])
    assert [line.split(":")[1] for line in ours(broker, "get-offsets", "--topic", "to")[1].splitlines()][:4] == ["0", "1", "10", "11"]


def test_delete_records(broker):
    if not has(broker, 21):
        return print("without DeleteRecords")
    made(broker, "td", 1)
    assert ours(broker, "console-producer", "--topic", "td", stdin="x\n" * 10)[0] == 0
    path = os.path.join(temp_dir(), "offsets.json")
    for run, offset, expected in ((kafkas, 3, 3), (ours, 5, 5), (ours, -1, 10)):
        with open(path, "w") as file:
            json.dump({"partitions": [{"topic": "td", "partition": 0, "offset": offset}], "version": 1}, file)
        code, out, err = run(broker, "delete-records", "--offset-json-file", path)
        text = f"Executing records delete operation\nRecords delete operation completed:\npartition: td-0\tlow_watermark: {expected}\n"
        assert (code, out) == (0, text), (code, out, err)
    assert ours(broker, "get-offsets", "--topic", "td", "--time", "-2")[1] == "td:0:10\n"


def test_configs(broker):
    code, out, err = ours(broker, "topics", "--create", "--topic", "tg", "--config", "retention.ms=86400000")
    assert code == 0, (code, out, err)
    same(broker, [
        ("configs", "--describe", "--topic", "tg"),
        ("configs", "--describe", "--entity-type", "topics", "--entity-name", "tg", "--all"),
        ("configs", "--describe", "--topic", "gone"),
        ("configs", "--describe", "--broker", "1"),
    ])
    if not has(broker, 44):
        return print("without IncrementalAlterConfigs")
    change = ("configs", "--alter", "--topic", "tg", "--add-config", "cleanup.policy=[compact,delete],segment.ms=70000")
    assert ours(broker, *change) == (0, "Completed updating config for topic tg.\n", "")
    same(broker, [("configs", "--describe", "--topic", "tg")])
    assert "cleanup.policy=compact,delete " in ours(broker, "configs", "--describe", "--topic", "tg")[1]
    assert ours(broker, "configs", "--alter", "--topic", "tg", "--delete-config", "segment.ms")[0] == 0
    assert "segment.ms" not in ours(broker, "configs", "--describe", "--topic", "tg")[1]
    code, out, err = ours(broker, "configs", "--alter", "--topic", "tg", "--delete-config", "segment.ms")
    assert code == 1 and err.startswith("Invalid config(s): segment.ms"), (code, out, err)


class Consumer:
    """A console consumer in the background, its output in a file."""

    def __init__(self, command):
        self.path = os.path.join(temp_dir(), "out")
        with open(self.path, "w") as out, open(self.path + ".err", "w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err)

    def lines(self):
        with open(self.path) as out:
            return out.read().splitlines()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(90)


def test_groups(broker):
    """Kafka's consumer and ours in one group, looked at with both tools; then everything that changes offsets."""
    if not has(broker, 11):
        return print("without groups")
    made(broker, "gt", 3)
    produce = lambda text: ours(broker, "console-producer", "--topic", "gt", "--reader-property", "parse.key=true", stdin=text)
    args = ["--bootstrap-server", broker.bootstrap, "--topic", "gt", "--group", "g1", "--from-beginning"]
    theirs = Consumer(["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{LIBS}/*", CLASSES["console-consumer"], *args])
    mine = Consumer([CORELANE, "console-consumer", *args])
    try:
        members = lambda: ours(broker, "consumer-groups", "--describe", "--group", "g1", "--members")[1].splitlines()[2:]
        eventually(lambda: sorted(line.split()[4] for line in members()) == ["1", "2"], 60)
        assert produce("".join(f"k{n}\tv{n}\n" for n in range(60)))[0] == 0
        eventually(lambda: len(theirs.lines()) + len(mine.lines()) >= 60)
        assert sorted(theirs.lines() + mine.lines()) == sorted(f"v{n}" for n in range(60))
        assert theirs.lines() and mine.lines(), "both have partitions with records"
        offsets = lambda: ours(broker, "consumer-groups", "--describe", "--group", "g1")[1].splitlines()[2:]
        eventually(lambda: len(offsets()) == 3 and all(line.split()[5] == "0" for line in offsets()))
        show = ("consumer-groups", "--describe", "--group", "g1")
        same(broker, [show, (*show, "--verbose"), (*show, "--members", "--verbose"), (*show, "--state"), ("consumer-groups", "--list", "--state", "--type")])
        code, out, err = ours(broker, "consumer-groups", "--reset-offsets", "--group", "g1", "--topic", "gt", "--to-earliest", "--execute")
        assert code == 0 and "\nError: Assignments can only be reset if the group 'g1' is inactive, but the current state is Stable.\n" in out, out
        assert mine.stop() == 0
        with open(mine.path + ".err") as err:
            assert f"Processed a total of {len(mine.lines())} messages\n" == err.read()
        eventually(lambda: [line.split()[4] for line in members()] == ["3"])
    finally:
        theirs.stop()
        mine.process.kill()
    eventually(lambda: not members())
    check_resets(broker)


def check_resets(broker):
    """The group has no members any more."""
    reset = ("consumer-groups", "--reset-offsets", "--group", "g1")
    code, exported, err = ours(broker, *reset, "--topic", "gt", "--to-offset", "7", "--export", "--dry-run")
    assert code == 0 and exported == "gt,0,7\ngt,1,7\ngt,2,7\n\n", (code, exported, err)
    plan = os.path.join(temp_dir(), "plan.csv")
    with open(plan, "w") as file:
        file.write(exported)
    same(broker, [
        (*reset, "--topic", "gt", "--to-earliest", "--dry-run"),
        (*reset, "--topic", "gt:0,2", "--to-offset", "1000", "--dry-run"),
        (*reset, "--all-topics", "--shift-by", "-3", "--dry-run"),
        (*reset, "--all-topics", "--to-current", "--dry-run", "--export"),
        (*reset, "--topic", "gt", "--by-duration", "PT1H", "--dry-run"),
        (*reset, "--topic", "gt", "--to-datetime", "2099-01-01T00:00:00.000", "--dry-run"),
        (*reset, "--from-file", plan, "--dry-run"),
        ("consumer-groups", "--describe", "--group", "g1"),
        ("consumer-groups", "--describe", "--group", "gone"),
    ])
    assert ours(broker, *reset, "--all-topics", "--shift-by", "-2", "--execute")[0] == 0
    lags = [line.split()[5] for line in ours(broker, "consumer-groups", "--describe", "--group", "g1")[1].splitlines()[2:]]
    assert lags == ["2", "2", "2"], lags
    code, out, err = ours(broker, "console-consumer", "--topic", "gt", "--group", "g1", "--max-messages", "4", "--timeout-ms", "20000")
    assert code == 0 and len(out.splitlines()) == 4, (code, out, err)
    lags = [line.split()[5] for line in ours(broker, "consumer-groups", "--describe", "--group", "g1")[1].splitlines()[2:]]
    assert sum(map(int, lags)) == 2, lags
    code, out, err = ours(broker, "consumer-groups", "--delete-offsets", "--group", "g1", "--topic", "gt:0")
    assert code == 0 and out.startswith("Request succeeded for deleting offsets from group g1.\n"), (code, out, err)
    text = "Deletion of requested consumer groups ('g1') was successful.\n"
    assert ours(broker, "consumer-groups", "--delete", "--group", "g1") == (0, text, "")
    code, out, err = ours(broker, "consumer-groups", "--delete", "--group", "g1")
    assert "* Group 'g1' could not be deleted due to: org.apache.kafka.common.errors.GroupIdNotFoundException: The group id does not exist." in out, out


def test_offsets_of_partitions_that_do_not_exist(broker):
    made(broker, "tn", 2)
    reset = ("consumer-groups", "--reset-offsets", "--group", "gn", "--dry-run")
    same(broker, [
        (*reset, "--topic", "tn:0,7", "--to-earliest"),
        (*reset, "--topic", "tn:7", "--to-offset", "3"),
        (*reset, "--topic", "tn:1,7", "--shift-by", "1"),
        (*reset, "--topic", "tn:1,7", "--to-current"),
        (*reset, "--topic", "tn-gone", "--to-earliest"),
    ])
    plan = os.path.join(temp_dir(), "plan.csv")
    with open(plan, "w") as file:
        file.write("tn,0,1\ntn,9,1\n")
    code, out, err = ours(broker, *reset, "--from-file", plan)
    assert code == 0 and 'failed due to The partitions "tn-9" do not exist' in out, (code, out, err)


def test_files_with_a_byte_order_mark(broker):
    """Editors put one in front; it is no part of the first name in the file."""
    made(broker, "tk", 1)
    assert ours(broker, "console-producer", "--topic", "tk", stdin="x\n" * 3)[0] == 0
    path = os.path.join(temp_dir(), "file")

    def with_file(text, tool, *args):
        with open(path, "w", encoding="utf-8-sig") as file:
            file.write(text)
        return ours(broker, tool, *args, path)

    code, out, err = with_file("tk,0,2\n", "consumer-groups", "--reset-offsets", "--group", "gk", "--execute", "--from-file")
    assert code == 0 and out.split()[-4:] == ["gk", "tk", "0", "2"], (code, out, err)
    offsets = json.dumps({"partitions": [{"topic": "tk", "partition": 0, "offset": 1}], "version": 1})
    code, out, err = with_file(offsets, "delete-records", "--offset-json-file")
    assert code == 0 and "low_watermark: 1" in out, (code, out, err)
    code, out, err = with_file("request.timeout.ms=x\n", "topics", "--list", "--command-config")
    assert code == 1 and "Invalid value x for configuration request.timeout.ms" in err, (code, out, err)
    code, out, err = with_file("retention.ms=86400000\n", "configs", "--alter", "--topic", "tk", "--add-config-file")
    assert code == 0, (code, out, err)
    assert "retention.ms=86400000" in ours(broker, "configs", "--describe", "--topic", "tk")[1]


def test_formatters_of_the_offsets_topic():
    """What is in `__consumer_offsets` as the console consumers show it."""
    with Broker(offsets_topic_num_partitions=1, **OVERRIDES) as broker:
        made(broker, "tf", 2)
        assert ours(broker, "console-producer", "--topic", "tf", stdin="a\nb\n")[0] == 0
        for protocol in ("classic", "consumer"):
            read = ("--topic", "tf", "--group", f"tf-{protocol}", "--from-beginning", "--max-messages", "2", "--timeout-ms", "20000", "--command-property", f"group.protocol={protocol}")
            assert ours(broker, "console-consumer", *read)[0] == 0
        code, out, err = ours(broker, "consumer-groups", "--delete-offsets", "--group", "tf-classic", "--topic", "tf:1")
        assert code == 0, (code, out, err)
        for formatter in ("OffsetsMessageFormatter", "GroupMetadataMessageFormatter"):
            args = ("console-consumer", "--topic", "__consumer_offsets", "--partition", "0", "--offset", "earliest", "--timeout-ms", "4000", "--formatter", f"org.apache.kafka.tools.consumer.{formatter}")
            theirs, mine = kafkas(broker, *args), ours(broker, *args)
            assert mine[:2] == theirs[:2] and mine[0] == 0, (mine, theirs)
            assert len(re.findall(r'{"key":{"type":\d,"data":', mine[1])) >= 2, mine
