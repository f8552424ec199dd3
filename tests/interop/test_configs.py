"""Settings of topics and of the broker changed at run time: by hand, by Kafka's kafka-configs, by librdkafka and kafka-python."""

import os
import time

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource as PythonResource, ConfigResourceType

from harness import KAFKA, Broker, eventually, java
from raw import Connection, batch

TOPIC, BROKER, GROUP = 2, 4, 32
SET, DELETE, APPEND, SUBTRACT = range(4)
BY_TOPIC, BY_BROKER, FOR_ALL_BROKERS, BY_FILE, BUILT_IN, BY_GROUP = 1, 2, 3, 4, 5, 8
INVALID_CONFIG, INVALID_REQUEST, REQUEST_TIMED_OUT, UNKNOWN_TOPIC, INVALID_TOPIC = 40, 42, 7, 3, 17
OVERRIDES = {"message.max.bytes": 2_000_000, "log.retention.minutes": 50}
TOOL = "kafka.admin.ConfigCommand"


def alter(c, *resources, validate=False, version=1):
    """Each resource: kind, name, changes. Returns (code, text) of each."""
    asked = [
        {"ResourceType": kind, "ResourceName": name, "Configs": [{"Name": n, "ConfigOperation": op, "Value": v} for n, op, v in changes]}
        for kind, name, changes in resources
    ]
    answer = c.call("IncrementalAlterConfigs", version, {"Resources": asked, "ValidateOnly": validate})
    assert [(r.ResourceType, r.ResourceName) for r in answer.Responses] == [(kind, name) for kind, name, _ in resources]
    return [(r.ErrorCode, r.ErrorMessage) for r in answer.Responses]


def alter_old(c, kind, name, configs, validate=False, version=2):
    asked = [{"ResourceType": kind, "ResourceName": name, "Configs": [{"Name": n, "Value": v} for n, v in configs.items()]}]
    answer = c.call("AlterConfigs", version, {"Resources": asked, "ValidateOnly": validate}).Responses[0]
    return answer.ErrorCode, answer.ErrorMessage


def described(c, kind, name, setting):
    """(value, source, synonyms) of one setting."""
    resource = {"ResourceType": kind, "ResourceName": name, "ConfigurationKeys": [setting]}
    result = c.call("DescribeConfigs", 4, {"Resources": [resource], "IncludeSynonyms": True}).Results[0]
    assert result.ErrorCode == 0, result
    if not result.Configs:
        return None
    entry = result.Configs[0]
    return entry.Value, entry.ConfigSource, [(s.Name, s.Value, s.Source) for s in entry.Synonyms]


def becomes(c, kind, name, setting, expected):
    """Kafka's broker sees a change a moment after it was answered."""
    if KAFKA:
        eventually(lambda: described(c, kind, name, setting) == expected)
    assert described(c, kind, name, setting) == expected


def test_operations(broker):
    with Connection(broker.address) as c:
        c.create_topic("ops")
        policy = [("log.cleanup.policy", "delete", BUILT_IN)]
        for name, op, value, expected in [
            ("cleanup.policy", APPEND, "compact", "delete,compact"),
            ("cleanup.policy", APPEND, "compact,delete,compact", "delete,compact"),
            ("cleanup.policy", SUBTRACT, "delete", "compact"),
            ("cleanup.policy", SUBTRACT, "compact,x", ""),
            ("cleanup.policy", SET, " compact , delete ", "compact,delete"),
        ]:
            assert alter(c, (TOPIC, "ops", [(name, op, value)])) == [(0, None)]
            eventually(lambda: described(c, TOPIC, "ops", name)[0] == expected) if KAFKA else None
            assert described(c, TOPIC, "ops", name)[:2] == (expected, BY_TOPIC)
        assert alter(c, (TOPIC, "ops", [("cleanup.policy", DELETE, None), ("retention.ms", SET, "5000"), ("nope", DELETE, None)])) == [(0, None)]
        becomes(c, TOPIC, "ops", "cleanup.policy", ("delete", BUILT_IN, policy))
        # log.retention.minutes decides the default, but is no synonym that Kafka shows.
        becomes(c, TOPIC, "ops", "retention.ms", ("5000", BY_TOPIC, [("retention.ms", "5000", BY_TOPIC)]))
        assert alter(c, (TOPIC, "ops", [("retention.ms", SET, "777")]), validate=True, version=0) == [(0, None)]
        assert alter(c, (TOPIC, "ops", [])) == [(0, None)]
        time.sleep(0.2)
        assert described(c, TOPIC, "ops", "retention.ms")[0] == "5000"


def test_refusals(broker):
    """Each with Kafka's code and text, and without any effect; others in the same request are done."""
    with Connection(broker.address) as c:
        c.create_topic("refused", retention_ms=1000)
        c.create_topic("other")

        def topic(*changes, name="refused"):
            return alter(c, (TOPIC, name, list(changes)))[0]

        def node(name, *changes):
            return alter(c, (BROKER, name, [(n, SET, v) for n, v in changes]))[0]

        assert topic(("retention.ms", SET, "x")) == (INVALID_CONFIG, "Invalid value x for configuration retention.ms: Not a number of type LONG")
        assert topic(("nope", SET, "1")) == (INVALID_CONFIG, "Unknown topic config name: nope")
        assert topic(("retention.ms", SET, None), ("segment.ms", APPEND, None)) == (INVALID_REQUEST, "Null value not supported for : retention.ms, segment.ms")
        assert topic(("retention.ms", SET, "1"), ("retention.ms", SET, "2")) == (INVALID_REQUEST, "Error due to duplicate config keys")
        assert topic(("retention.ms", APPEND, "1")) == (INVALID_CONFIG, "Can't APPEND to key retention.ms because its type is not LIST.")
        assert topic(("cleanup.policy", APPEND, "foo")) == (INVALID_CONFIG, "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete")
        tiered = "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."
        assert topic(("remote.storage.enable", SET, "true")) == (INVALID_CONFIG, tiered)
        lags = "conflict topic config setting min.compaction.lag.ms (100) > max.compaction.lag.ms (50)"
        assert topic(("min.compaction.lag.ms", SET, "100"), ("max.compaction.lag.ms", SET, "50")) == (INVALID_CONFIG, lags)
        assert topic(("retention.ms", SET, "1"), name="nope") == (UNKNOWN_TOPIC, "The topic 'nope' does not exist.")
        assert topic(("retention.ms", SET, "1"), name="") == (INVALID_REQUEST, "Default topic resources are not allowed.")
        assert topic(("retention.ms", SET, "1"), name="a b")[0] == INVALID_TOPIC
        assert alter(c, (77, "x", [("a", SET, "b")])) == [(INVALID_REQUEST, "Unknown resource type 77")]

        twice = (INVALID_REQUEST, "Each resource must appear at most once.")
        one = (TOPIC, "refused", [("retention.ms", SET, "1")])
        assert alter(c, one, (TOPIC, "other", [("retention.ms", SET, "2000")]), one) == [twice, (0, None), twice]
        becomes(c, TOPIC, "other", "retention.ms", ("2000", BY_TOPIC, [("retention.ms", "2000", BY_TOPIC)]))
        mixed = alter(c, (TOPIC, "refused", [("retention.ms", SET, "x"), ("segment.ms", SET, "5")]), (TOPIC, "other", [("retention.ms", SET, "3000")]))
        assert [code for code, _ in mixed] == [INVALID_CONFIG, 0]

        assert node("1", ("log.dirs", "/x"), ("broker.id", "3")) == (INVALID_REQUEST, "Cannot update these configs dynamically: [broker.id, log.dirs]")
        assert node("", ("log.retention.hours", "3")) == (INVALID_REQUEST, "Cannot update these configs dynamically: [log.retention.hours]")
        assert node("", ("log.segment.bytes", "1")) == (INVALID_REQUEST, "Invalid value 1 for configuration log.segment.bytes: Value must be at least 1048576")
        zero = "requirement failed: log.retention.ms must be unlimited (-1) or, greater than or equal to 1"
        assert node("1", ("log.retention.ms", "0")) == (INVALID_REQUEST, zero)
        assert node("5", ("log.retention.ms", "9")) == (INVALID_REQUEST, "Unexpected broker id, expected 1, but received 5")
        assert node("x", ("log.retention.ms", "9")) == (INVALID_REQUEST, "Node id must be an integer, but it is: x")

        assert node("", ("log.cleaner.enable", "false"), ("log.retention.check.interval.ms", "5")) == (
            INVALID_REQUEST, "Cannot update these configs dynamically: [log.cleaner.enable, log.retention.check.interval.ms]")
        small = "requirement failed: log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread."
        assert node("1", ("log.cleaner.dedupe.buffer.size", "1000000")) == (INVALID_REQUEST, small)

        old = alter_old(c, TOPIC, "refused", {"segment.ms": "0"})
        assert old == (INVALID_CONFIG, "Invalid value 0 for configuration segment.ms: Value must be at least 1"), old
        assert alter_old(c, TOPIC, "refused", {"segment.ms": None}) == (INVALID_REQUEST, "Null value not supported for : segment.ms")
        assert alter_old(c, TOPIC, "nope", {"segment.ms": "1"}) == (UNKNOWN_TOPIC, "The topic 'nope' does not exist.")
        assert described(c, TOPIC, "refused", "retention.ms")[0] == "1000"
        assert described(c, TOPIC, "refused", "segment.ms")[1] == BUILT_IN


def test_the_older_request_resets_what_it_does_not_name(broker):
    with Connection(broker.address) as c:
        c.create_topic("old", retention_ms=1000, segment_ms=5000)
        for version in (0, 1, 2):
            assert alter_old(c, TOPIC, "old", {"flush.ms": str(version + 7)}, version=version) == (0, None)
            eventually(lambda: described(c, TOPIC, "old", "flush.ms")[0] == str(version + 7))
        assert described(c, TOPIC, "old", "retention.ms")[1] == BUILT_IN
        assert described(c, TOPIC, "old", "segment.ms")[1] == BUILT_IN
        assert alter_old(c, TOPIC, "old", {}, validate=True) == (0, None)
        assert described(c, TOPIC, "old", "flush.ms")[0] == "9"


def test_producers_feel_it(broker):
    """Sizes, and whose timestamps count, from the answer on."""
    with Connection(broker.address) as c:
        c.create_topic("felt")
        big = batch([b"x" * 5000])
        assert c.produce("felt", 0, big).ErrorCode == 0
        assert alter(c, (TOPIC, "felt", [("max.message.bytes", SET, "4000"), ("message.timestamp.type", SET, "LogAppendTime")])) == [(0, None)]
        refused = eventually(lambda: c.produce("felt", 0, big).ErrorCode) if KAFKA else c.produce("felt", 0, big).ErrorCode
        assert refused == 10, "MESSAGE_TOO_LARGE"
        assert c.produce("felt", 0, batch([b"small"])).LogAppendTimeMs > 0
        assert alter(c, (TOPIC, "felt", [("max.message.bytes", DELETE, None), ("message.timestamp.type", DELETE, None)])) == [(0, None)]
        if KAFKA:
            eventually(lambda: c.produce("felt", 0, big).ErrorCode == 0)
        answer = c.produce("felt", 0, big)
        assert (answer.ErrorCode, answer.LogAppendTimeMs) == (0, -1)


def test_brokers_settings_are_the_topics_defaults(broker):
    """Sources and synonyms in Kafka's order: this broker's, all brokers', the file's, the built-in one."""
    with Connection(broker.address) as c:
        c.create_topic("heir")
        file, built_in = ("message.max.bytes", "2000000", BY_FILE), ("message.max.bytes", "1048588", BUILT_IN)
        own, every = ("message.max.bytes", "5000", BY_BROKER), ("message.max.bytes", "7000", FOR_ALL_BROKERS)
        becomes(c, TOPIC, "heir", "max.message.bytes", ("2000000", BY_FILE, [file, built_in]))
        assert alter(c, (BROKER, "", [("message.max.bytes", SET, "7000")])) == [(0, None)]
        becomes(c, TOPIC, "heir", "max.message.bytes", ("7000", FOR_ALL_BROKERS, [every, file, built_in]))
        assert alter(c, (BROKER, "1", [("message.max.bytes", SET, "5000")])) == [(0, None)]
        becomes(c, TOPIC, "heir", "max.message.bytes", ("5000", BY_BROKER, [own, every, file, built_in]))
        becomes(c, BROKER, "1", "message.max.bytes", ("5000", BY_BROKER, [own, every, file, built_in]))
        becomes(c, BROKER, "", "message.max.bytes", ("7000", FOR_ALL_BROKERS, [every]))
        assert c.produce("heir", 0, batch([b"x" * 6000])).ErrorCode == 10
        assert alter(c, (BROKER, "1", [("message.max.bytes", DELETE, None)]), (BROKER, "", [("message.max.bytes", DELETE, None)])) == [(0, None)] * 2
        becomes(c, TOPIC, "heir", "max.message.bytes", ("2000000", BY_FILE, [file, built_in]))
        becomes(c, BROKER, "", "message.max.bytes", None)

        minutes, hours = ("log.retention.minutes", "50", BY_FILE), ("log.retention.hours", "168", BUILT_IN)
        assert described(c, TOPIC, "heir", "retention.ms")[0] == "3000000"
        assert alter(c, (BROKER, "1", [("log.retention.ms", SET, "60000")])) == [(0, None)]
        becomes(c, TOPIC, "heir", "retention.ms", ("60000", BY_BROKER, [("log.retention.ms", "60000", BY_BROKER), minutes, hours]))
        assert alter_old(c, BROKER, "1", {}) == (0, None)
        eventually(lambda: described(c, TOPIC, "heir", "retention.ms")[0] == "3000000")


def test_limits_of_connections_change():
    with Broker() as broker, Connection(broker.address) as c:
        assert alter(c, (BROKER, "", [("max.connections.per.ip", SET, "2")])) == [(0, None)]

        def refused():
            try:
                with Connection(broker.address) as second, Connection(broker.address) as third:
                    return second.call("ApiVersions", 0) and third.call("ApiVersions", 0) and False
            except Exception:  # noqa: BLE001 - closed in one way or another
                return True

        eventually(refused)
        assert alter(c, (BROKER, "", [("max.connections.per.ip", DELETE, None)])) == [(0, None)]
        eventually(lambda: not refused())


def test_settings_survive():
    """A clean stop and a kill."""
    with Broker() as broker:
        with Connection(broker.address) as c:
            c.create_topic("kept", retention_ms=1000)
            changes = (TOPIC, "kept", [("cleanup.policy", SET, "compact"), ("retention.ms", DELETE, None)])
            assert alter(c, changes, (BROKER, "1", [("log.segment.bytes", SET, "2000000")]), (BROKER, "", [("log.flush.interval.ms", SET, "5")])) == [(0, None)] * 3
        for stop in (broker.terminate, broker.kill):
            stop()
            broker.start()
            with Connection(broker.address) as c:
                eventually(lambda: described(c, TOPIC, "kept", "flush.ms")[0] == "5")
                assert described(c, TOPIC, "kept", "cleanup.policy")[:2] == ("compact", BY_TOPIC)
                assert described(c, TOPIC, "kept", "retention.ms")[1] == BUILT_IN
                assert described(c, TOPIC, "kept", "segment.bytes")[:2] == ("2000000", BY_BROKER)
                assert described(c, TOPIC, "kept", "flush.ms")[:2] == ("5", FOR_ALL_BROKERS)
                c.create_topic("gone", retention_ms=1)
                c.call("DeleteTopics", 1, {"TopicNames": ["gone"], "TimeoutMs": 30000})


def test_names_of_what_has_settings(broker):
    with Connection(broker.address) as c:
        c.create_topic("named")

        def listed(kinds, version=1):
            answer = c.call("ListConfigResources", version, {"ResourceTypes": kinds} if version else {})
            return answer.ErrorCode, {(r.ResourceType, r.ResourceName) for r in answer.ConfigResources}

        code, topics = listed([TOPIC])
        assert code == 0 and (TOPIC, "named") in topics and all(kind == TOPIC for kind, _ in topics)
        assert listed([BROKER]) == (0, {(BROKER, "1")})
        code, everything = listed([])
        assert code == 0 and {(TOPIC, "named"), (BROKER, "1")} <= everything
        assert listed([TOPIC, 77]) == (35, set())
        assert listed([], version=0) == (0, set())


def kafka_configs(broker, *args):
    return java(TOOL, "--bootstrap-server", broker.bootstrap, *args)


def test_kafka_configs_of_topics(broker):
    with Connection(broker.address) as c:
        c.create_topic("tool", segment_ms=100000)
    code, out, err = kafka_configs(broker, "--alter", "--topic", "tool", "--add-config", "retention.ms=5000,cleanup.policy=[compact,delete]")
    assert (code, out.strip()) == (0, "Completed updating config for topic tool."), (out, err)
    code, out, err = kafka_configs(broker, "--describe", "--entity-type", "topics", "--entity-name", "tool")
    assert code == 0 and out.splitlines() == [
        "Dynamic configs for topic tool are:",
        "  cleanup.policy=compact,delete sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, DEFAULT_CONFIG:log.cleanup.policy=delete}",
        "  retention.ms=5000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=5000}",
        "  segment.ms=100000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:segment.ms=100000}",
    ], (out, err)
    code, out, err = kafka_configs(broker, "--alter", "--topic", "tool", "--delete-config", "retention.ms,segment.ms")
    assert (code, out.strip()) == (0, "Completed updating config for topic tool."), (out, err)
    code, out, err = kafka_configs(broker, "--alter", "--topic", "tool", "--add-config", "retention.ms=x")
    assert code == 1 and "InvalidConfigurationException: Invalid value x for configuration retention.ms: Not a number of type LONG" in out + err, (out, err)
    code, out, err = java("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", broker.bootstrap, "--describe", "--topic", "tool")
    configs = out.splitlines()[0].split("Configs: ")[1].split(",")
    assert {"cleanup.policy=compact", "delete", "max.message.bytes=2000000"} <= set(configs), out


def test_kafka_configs_of_brokers(broker):
    code, out, err = kafka_configs(broker, "--alter", "--broker", "1", "--add-config", "log.segment.bytes=6000000")
    assert (code, out.strip()) == (0, "Completed updating config for broker 1."), (out, err)
    code, out, err = kafka_configs(broker, "--alter", "--broker-defaults", "--add-config", "log.segment.bytes=7000000")
    assert (code, out.strip()) == (0, "Completed updating default config for brokers in the cluster."), (out, err)
    code, out, err = kafka_configs(broker, "--describe", "--entity-type", "brokers")
    lines = [line for line in out.splitlines() if "min.insync.replicas" not in line]  # which Kafka sets itself
    own, every = "DYNAMIC_BROKER_CONFIG:log.segment.bytes=6000000", "DYNAMIC_DEFAULT_BROKER_CONFIG:log.segment.bytes=7000000"
    assert code == 0 and lines == [
        "Dynamic configs for broker 1 are:",
        f"  log.segment.bytes=6000000 sensitive=false synonyms={{{own}, {every}, DEFAULT_CONFIG:log.segment.bytes=1073741824}}",
        "Default configs for brokers in the cluster are:",
        f"  log.segment.bytes=7000000 sensitive=false synonyms={{{every}}}",
    ], (out, err)
    code, out, err = kafka_configs(broker, "--alter", "--broker", "1", "--add-config", "log.dirs=/x")
    assert code == 1 and "InvalidRequestException: Cannot update these configs dynamically: [log.dirs]" in out + err, (out, err)
    for scope in (("--broker", "1"), ("--broker-defaults",)):
        code, out, err = kafka_configs(broker, "--alter", *scope, "--delete-config", "log.segment.bytes")
        assert code == 0, (out, err)


def test_kafka_configs_of_the_cleaner():
    """How often and how fast logs are compacted follows the settings, in the middle of a pause and of a cleaning too."""

    def set_all(name, value):
        code, out, err = kafka_configs(broker, "--alter", "--broker-defaults", "--add-config", f"{name}={value}")
        assert code == 0, (out, err)

    def load(topic):
        """Two full segments of one key, and some."""
        c.create_topic(topic, cleanup_policy="compact", segment_bytes=1 << 20, min_cleanable_dirty_ratio=0.01)
        for _ in range(25):
            c.produce_ok(topic, 0, batch([(b"k", os.urandom(100_000))]))

    def left(topic):
        return sum(len(b.records) for b in c.fetch_all(topic, 0))

    with Broker(**{"log.cleaner.backoff.ms": 3600_000}) as broker, Connection(broker.address) as c:
        load("one")
        time.sleep(1)
        assert left("one") == 25
        set_all("log.cleaner.backoff.ms", 100)
        eventually(lambda: left("one") <= 12, 30)
        if not KAFKA:  # which keeps a pause until its end
            set_all("log.cleaner.io.max.bytes.per.second", 1000)
        load("two")
        time.sleep(1)
        assert KAFKA or left("two") == 25
        set_all("log.cleaner.io.max.bytes.per.second", 1e9)
        eventually(lambda: left("two") <= 12, 30)
        for name, value in (("log.cleaner.dedupe.buffer.size", 4 << 20), ("log.cleaner.io.buffer.size", 1 << 17), ("log.cleaner.io.buffer.load.factor", 0.5)):
            set_all(name, value)
            assert described(c, BROKER, "1", name)[:2] == (str(value), FOR_ALL_BROKERS)
        load("three")
        eventually(lambda: left("three") <= 12, 30)


def test_librdkafka(broker):
    with Connection(broker.address) as c:
        c.create_topic("rd")
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    entry = ConfigEntry("retention.ms", "4321", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, "rd", incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(60)

    def retention():
        asked = ConfigResource(ResourceType.TOPIC, "rd")
        return admin.describe_configs([asked])[asked].result(60)["retention.ms"].value

    eventually(lambda: retention() == "4321")
    older = ConfigResource(ResourceType.TOPIC, "rd", set_config={"flush.ms": "99"})
    admin.alter_configs([older])[older].result(60)
    eventually(lambda: retention() == "3000000")


def test_kafka_python(broker):
    with Connection(broker.address) as c:
        c.create_topic("py")
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        for incremental, value in ((True, "1234"), (False, "5678")):
            admin.alter_configs([PythonResource(ConfigResourceType.TOPIC, "py", configs={"retention.ms": value})], incremental=incremental)
            eventually(lambda: described(c, TOPIC, "py", "retention.ms")[:2] == (value, BY_TOPIC))
        admin.close()


SESSION, HEARTBEAT, ASSIGNMENT = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms", "consumer.assignment.interval.ms"


def listed_groups(c):
    return sorted(r.ResourceName for r in c.call("ListConfigResources", 1, {"ResourceTypes": [GROUP]}).ConfigResources)


def test_settings_of_groups(broker):
    """Each refusal with Kafka's code and text; groups need not exist to have settings."""
    with Connection(broker.address) as c:
        def group(*changes, name="g"):
            return alter(c, (GROUP, name, [(n, SET, v) for n, v in changes]))[0]

        assert described(c, GROUP, "g", SESSION) == ("45000", BUILT_IN, [(f"group.{SESSION}", "45000", BUILT_IN)])
        assert listed_groups(c) == []
        assert group((SESSION, "50000"), (ASSIGNMENT, "5")) == (0, None)
        becomes(c, GROUP, "g", SESSION, ("50000", BY_GROUP, [(SESSION, "50000", BY_GROUP), (f"group.{SESSION}", "45000", BUILT_IN)]))
        for name, value, text in [
            (SESSION, "44999", f"{SESSION} must be greater than or equal to group.consumer.min.session.timeout.ms"),
            (SESSION, "60001", f"{SESSION} must be less than or equal to group.consumer.max.session.timeout.ms"),
            (SESSION, "0", f"Invalid value 0 for configuration {SESSION}: Value must be at least 1"),
            (SESSION, "x", f"Invalid value x for configuration {SESSION}: Not a number of type INT"),
            (HEARTBEAT, "4999", f"{HEARTBEAT} must be greater than or equal to group.consumer.min.heartbeat.interval.ms"),
            (HEARTBEAT, "15001", f"{HEARTBEAT} must be less than or equal to group.consumer.max.heartbeat.interval.ms"),
            (ASSIGNMENT, "-1", f"Invalid value -1 for configuration {ASSIGNMENT}: Value must be at least 0"),
            (ASSIGNMENT, "20000", f"{ASSIGNMENT} must be less than or equal to group.consumer.max.assignment.interval.ms"),
            ("nope", "1", "Unknown group config name: nope"),
        ]:
            assert group((name, value)) == (INVALID_CONFIG, text), (name, value)
        assert alter(c, (GROUP, "g", [(SESSION, APPEND, "1")])) == [(INVALID_CONFIG, f"Can't APPEND to key {SESSION} because its type is not LIST.")]
        assert group((SESSION, "50000"), name="") == (INVALID_REQUEST, "Default group resources are not allowed.")
        nameless = c.call("DescribeConfigs", 4, {"Resources": [{"ResourceType": GROUP, "ResourceName": "", "ConfigurationKeys": None}]}).Results[0]
        assert (nameless.ErrorCode, nameless.ErrorMessage) == (INVALID_REQUEST, "Group name must not be empty")
        assert alter(c, (GROUP, "other", [(SESSION, SET, "50000")]), validate=True) == [(0, None)]
        assert alter(c, (GROUP, "other", [("nope", DELETE, None)])) == [(0, None)]
        time.sleep(0.2)
        assert listed_groups(c) == ["g"], listed_groups(c)
        assert alter_old(c, GROUP, "g", {HEARTBEAT: "6000"}) == (0, None)
        becomes(c, GROUP, "g", SESSION, ("45000", BUILT_IN, [(f"group.{SESSION}", "45000", BUILT_IN)]))
        assert alter_old(c, GROUP, "g", {}) == (0, None)
        eventually(lambda: listed_groups(c) == [])


def test_kafka_configs_of_groups(broker):
    tool = ["--bootstrap-server", broker.bootstrap]
    assert java(TOOL, *tool, "--alter", "--entity-type", "groups", "--entity-name", "kg", "--add-config", f"{SESSION}=50000")[:2] == (0, "Completed updating config for group kg.\n")
    expected = f"Dynamic configs for group kg are:\n  {SESSION}=50000 sensitive=false synonyms={{DYNAMIC_GROUP_CONFIG:{SESSION}=50000, DEFAULT_CONFIG:group.{SESSION}=45000}}\n"
    assert java(TOOL, *tool, "--describe", "--group", "kg")[:2] == (0, expected)
    assert java(TOOL, *tool, "--describe", "--entity-type", "groups")[:2] == (0, expected)
    code, out, _ = java(TOOL, *tool, "--describe", "--group", "kg", "--all")
    assert code == 0 and f"  {HEARTBEAT}=5000 sensitive=false synonyms={{DEFAULT_CONFIG:group.{HEARTBEAT}=5000}}\n" in out, out
    code, out, err = java(TOOL, *tool, "--alter", "--group", "kg", "--add-config", f"{SESSION}=1")
    assert code == 1 and f"{SESSION} must be greater than or equal to group.consumer.min.session.timeout.ms" in err, (code, out, err)
    assert java(TOOL, *tool, "--alter", "--group", "kg", "--delete-config", SESSION)[0] == 0
    assert java(TOOL, *tool, "--describe", "--group", "kg")[:2] == (0, "The group 'kg' doesn't exist and doesn't have dynamic config.\n")


def heartbeat(c, group, member, epoch, topics=None):
    body = {"GroupId": group, "MemberId": member, "MemberEpoch": epoch, "RebalanceTimeoutMs": 60000 if epoch == 0 else -1, "SubscribedTopicNames": topics, "TopicPartitions": [] if epoch == 0 else None}
    return eventually(lambda: (lambda a: a if a.ErrorCode not in (14, 15, 16) else None)(c.call("ConsumerGroupHeartbeat", 1, body)))


def test_settings_of_groups_count_at_once_and_after_a_restart():
    """The heartbeat interval that a member is told is its group's, and a member is removed by its group's session timeout."""
    short = {"group_consumer_min_session_timeout_ms": 1000, "group_consumer_min_heartbeat_interval_ms": 100}
    with Broker(**short) as broker:
        with Connection(broker.address) as c:
            c.create_topic("t")
            eventually(lambda: c.call("FindCoordinator", 4, {"KeyType": 0, "CoordinatorKeys": ["own", "others"]}).Coordinators[0].ErrorCode == 0)
            member = "member-000000000000001"
            first = heartbeat(c, "own", member, 0, ["t"])
            assert (first.ErrorCode, first.HeartbeatIntervalMs) == (0, 5000), first
            assert alter(c, (GROUP, "own", [(HEARTBEAT, SET, "700"), (SESSION, SET, "1500")])) == [(0, None)]
            eventually(lambda: heartbeat(c, "own", member, first.MemberEpoch).HeartbeatIntervalMs == 700)
            other = heartbeat(c, "others", member, 0, ["t"])
            assert other.HeartbeatIntervalMs == 5000, other
        broker.terminate()
        broker.start()
        with Connection(broker.address) as c:
            eventually(lambda: described(c, GROUP, "own", SESSION)[:2] == ("1500", BY_GROUP))
            again = heartbeat(c, "own", member, first.MemberEpoch)
            assert (again.ErrorCode, again.HeartbeatIntervalMs) in ((0, 700), (25, 0)), again
            # Nobody reports any more: the group with the short session loses its member, the other one does not.
            eventually(lambda: heartbeat(c, "own", member, first.MemberEpoch, None).ErrorCode == 25, pause=2)
            assert heartbeat(c, "others", member, other.MemberEpoch).ErrorCode == 0


def test_settings_of_many_topics_at_once():
    """One request changes topics whose settings are together larger than anything that is written at once."""
    count = 1100
    replicas = ",".join(["10000000:100000000"] * 1700)
    lists = [("leader.replication.throttled.replicas", replicas), ("follower.replication.throttled.replicas", replicas)]
    configs = [{"Name": name, "Value": value} for name, value in lists]
    names = [f"many-{n}" for n in range(count)]
    # All settings may take a quarter of it.
    with Broker(**{"corelane.memory": "384m"}) as broker:
        with Connection(broker.address) as c:
            for first in range(0, count, 25):
                topics = [{"Name": n, "NumPartitions": 1, "ReplicationFactor": 1, "Configs": configs} for n in names[first : first + 25]]
                answer = c.call("CreateTopics", 7, {"Topics": topics, "timeoutMs": 60000}).Topics
                assert [t.ErrorCode for t in answer] == [0] * len(topics), answer
            altered = alter(c, *((TOPIC, n, [("retention.ms", SET, "86400000")]) for n in names))
            # A slow machine may have it answered before it is done, as so much is written.
            assert {code for code, _ in altered} <= {0, REQUEST_TIMED_OUT}, altered[0]
            last = ("86400000", BY_TOPIC, [("retention.ms", "86400000", BY_TOPIC)])
            eventually(lambda: described(c, TOPIC, names[-1], "retention.ms") == last, seconds=120)
        if not KAFKA:
            broker.kill()
            broker.start()
        with Connection(broker.address) as c:
            for n in (names[0], names[count // 2], names[-1]):
                becomes(c, TOPIC, n, "retention.ms", last)


def test_values_that_are_too_long(broker):
    """Kafka keeps a number with any count of zeros in front."""
    with Connection(broker.address) as c:
        c.create_topic("long")
        assert alter(c, (TOPIC, "long", [("retention.ms", SET, "0" * 1000 + "5000")]))[0][0] == 0
        assert KAFKA or alter(c, (TOPIC, "long", [("retention.ms", SET, "0" * 3000 + "5000")]))[0][0] == INVALID_CONFIG


def described_at_once(c, kind, names, version):
    body = {"Resources": [{"ResourceType": kind, "ResourceName": n, "ConfigurationKeys": None} for n in names]}
    body |= {"IncludeSynonyms": True} if version >= 1 else {}
    return body | ({"IncludeDocumentation": True} if version >= 3 else {})


def test_descriptions_of_many_topics_at_once():
    """Whatever the length of the answer, it tells what single ones do; what is asked behind it keeps its place."""
    with Broker() as broker, Connection(broker.address) as c:
        names = [f"t{n}" for n in range(60)]
        for n, name in enumerate(names):
            c.create_topic(name, retention_ms=1000 + n)
        names.insert(30, "absent")
        for version in (1, 4):
            alone = [c.call("DescribeConfigs", version, described_at_once(c, TOPIC, [name], version)).Results[0] for name in names]
            c.send("DescribeConfigs", version, described_at_once(c, TOPIC, names, version))
            c.send("ApiVersions", 3, {"ClientSoftwareName": "x", "ClientSoftwareVersion": "1"})
            c.send("DescribeConfigs", version, described_at_once(c, TOPIC, names[:2], version))
            together = c.receive().Results
            assert c.receive().ErrorCode == 0 and len(c.receive().Results) == 2
            assert len(together) == len(names) and together[30].ErrorCode == UNKNOWN_TOPIC
            for one, same in zip(alone, together, strict=True):
                assert one == same, one.ResourceName


def test_settings_have_a_limit_together():
    """Each may be 32 KB long, and topics are many; nothing of what is refused is kept."""
    if KAFKA:
        return
    policy_violation, key = 44, "leader.replication.throttled.replicas"
    value = ",".join(f"{n}:{n}" for n in range(2500))
    with Broker(**{"corelane.memory": "32m"}) as broker, Connection(broker.address) as c:
        names = [f"t{n}" for n in range(400)]
        for name in names:
            c.create_topic(name)
        codes = []
        for at in range(0, len(names), 40):
            codes += [code for code, _ in alter(c, *[(TOPIC, name, [(key, SET, value)]) for name in names[at : at + 40]])]
        kept = codes.count(0)
        assert 200 < kept < 400 and set(codes) == {0, policy_violation}, codes
        assert alter(c, (TOPIC, names[-1], [("retention.ms", SET, "1000"), (key, SET, value)]))[0][0] == policy_violation
        assert alter(c, (TOPIC, names[0], [(key, DELETE, None)]))[0][0] == 0
        assert alter(c, (TOPIC, names[-1], [(key, SET, value)]))[0][0] == 0
        broker.kill()
        broker.start()
        with Connection(broker.address) as after:
            results = after.call("DescribeConfigs", 4, described_at_once(after, TOPIC, names, 4)).Results
        assert sum(any(e.Name == key and e.Value == value for e in r.Configs) for r in results) == kept
