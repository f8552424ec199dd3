"""kill -9 beside topics that come back under old names and disks that come and go:
`crash_identity.py [ROUNDS]`.

In each round clients create topics under six names and produce (acks=1 and acks=all, by name and by
topic id), while retention and compaction are at work. Then the broker is killed and started again.
FEATURES (default: all of them) chooses what happens besides:
  delete    records are deleted, by DeleteRecords
  recreate  topics are deleted and created again
  commits   groups commit offsets for topics that are deleted and created meanwhile
  kill      starts are killed too, at any moment
  order     log.dirs in another order
  new       a new, empty directory among log.dirs
  away      one directory left out for one run
  empty     an empty directory in the place of one for one run, as where a disk is not mounted
  copy      a copy of a partition in another directory: the start must be refused
  broken    a partition that cannot be opened for one run
  reserved  clients try to create topics under the broker's own names
  stop      some stops are clean, by SIGTERM
After each start everything is compared with what was acknowledged, by topic id (`crash_oracle.py`).
"""

import base64
import contextlib
import glob
import os
import random
import re
import shutil
import sys
import threading
import time
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from crash import Librdkafka  # noqa: E402
from crash_oracle import BY_ID, DELETABLE, KINDS, PARTITIONS, Commits, Life, group_partition  # noqa: E402
from harness import Broker, eventually, raise_file_limit, temp_dir  # noqa: E402
from raw import Closed, Connection, produce_body  # noqa: E402

FEATURES = (
    "delete",
    "recreate",
    "commits",
    "kill",
    "order",
    "new",
    "away",
    "empty",
    "copy",
    "broken",
    "reserved",
    "stop",
)
NAMES = [f"name-{n}" for n in range(6)]
LASTING, LASTING_PARTITIONS = "lasting", 4
OFFSETS, OFFSETS_PARTITIONS = "__consumer_offsets", 6
GROUPS = [f"group-{n}" for n in range(8)]
OWNERS, COMMITTERS = 3, 2
MOST_DIRS = 5
METADATA_LOGS = ("__corelane_metadata-0", "__cluster_metadata-0")
WAIT_SECONDS = 60
OVERRIDES = {
    "log.retention.check.interval.ms": 30,
    "log.initial.task.delay.ms": 30,
    "log.cleaner.backoff.ms": 30,
    "log.cleaner.dedupe.buffer.size": 4 << 20,
    "offsets.topic.num.partitions": OFFSETS_PARTITIONS,
    "auto.create.topics.enable": "false",
}
# Errors of a partition that is offline, or of a topic that was just deleted.
ABSENT, COORDINATOR_ABSENT = (3, 5, 6, 56, 100, 103), (14, 15, 16)
INVALID_TOPIC, INVALID_REQUEST = 17, 42
NO_ID = "version: 0\ntopic_id: none\n"
NO_MEMORY = "Cannot allocate memory (os error 12)"


class Actor(threading.Thread):
    """Calls `step` with its connection until the round ends. The main thread raises its error."""

    def __init__(self, world):
        super().__init__(daemon=True)
        self.world, self.dice, self.error = world, random.Random(world.dice.random()), None
        self.start()

    def run(self):
        world = self.world
        try:
            with Connection(world.broker.address, timeout=WAIT_SECONDS) as c:
                while not world.ending.is_set():
                    self.step(c)
        except (OSError, Closed) as error:
            if not world.ending.wait(5):
                self.error = AssertionError(f"a connection ended beside a living broker: {error!r}")
        except Exception as error:  # noqa: BLE001 - raised by the main thread
            self.error = error


class Owner(Actor):
    """Creates, fills, shortens and deletes the topics of its names, one operation at a time."""

    def __init__(self, world, names):
        self.names = names
        super().__init__(world)

    def step(self, c):
        name, world, dice = self.dice.choice(self.names), self.world, self.dice
        life = world.lives.get(name)
        if life is None:
            world.create(c, name, dice)
            if dice.random() < 0.7:
                world.check_commits(c, world.lives[name])
        elif "recreate" in world.features and dice.random() < (0.02 if life.size() < 1500 else 0.2):
            world.delete(c, life)
            if dice.random() < 0.8:
                time.sleep(dice.choice((0, 0, 0.003, 0.03)))
                world.create(c, name, dice)
                world.check_commits(c, world.lives[name])
        elif "delete" in world.features and life.kind in DELETABLE and dice.random() < 0.05:
            world.delete_records(c, life, dice)
        elif dice.random() < 0.01 and "reserved" in world.features:
            world.create_reserved(c, dice)
        else:
            part = life.parts[dice.choice([p for p in range(PARTITIONS) if p != BY_ID])]
            world.produce(c, part, -1 if part.idempotent else 1, life.name)


class ById(Actor):
    """Produces by topic id, to topics that may be deleted and created meanwhile."""

    def step(self, c):
        lives = [life for life in list(self.world.lives.values()) if life and life.id]
        if not lives:
            return time.sleep(0.01)
        part = self.dice.choice(lives).parts[BY_ID]
        return self.world.produce(c, part, self.dice.choice((-1, 1)), part.life.id, version=13)


class Committer(Actor):
    """Commits for its groups, by name and by topic id, whether the topic is there or not."""

    def __init__(self, world, groups):
        self.groups = groups
        super().__init__(world)

    def step(self, c):
        name, under_way = self.dice.choice(NAMES), []
        life = self.world.lives.get(name)
        try:
            for group in self.groups:
                by_id = life.id if life and life.id and self.dice.random() < 0.5 else None
                commit = self.world.commits.begin(group, name, by_id)
                under_way.append(commit)
                c.send("OffsetCommit", 10 if by_id else 8, commit_body(group, name, commit))
            for commit in list(under_way):
                code = c.receive().Topics[0].Partitions[0].ErrorCode
                under_way.remove(commit)
                commit.done(code == 0)
                assert code in (0, *ABSENT, *COORDINATOR_ABSENT), f"commit to {name}: error {code}"
        finally:
            for commit in under_way:
                commit.done(False)


def commit_body(group, name, commit):
    topic = {"TopicId": commit.topic_id} if commit.topic_id else {"Name": name}
    part = {"PartitionIndex": 0, "CommittedOffset": commit.offset, "CommittedLeaderEpoch": -1}
    topics = [{**topic, "Partitions": [part]}]
    return {"GroupId": group, "GenerationIdOrMemberEpoch": -1, "MemberId": "", "Topics": topics}


class Disks:
    """The log directories: which there are, which the broker is given, and what lies where."""

    def __init__(self, root):
        self.root = root
        self.made = 3
        self.given = [self.path(n) for n in range(self.made)]
        self.away = self.replaced = None

    def path(self, n):
        return os.path.join(self.root, f"disk-{n}")

    def add(self, dice):
        self.given.insert(dice.randrange(len(self.given) + 1), self.path(self.made))
        self.made += 1

    def take_out(self, dice):
        self.away = dice.choice(self.given)
        self.given.remove(self.away)

    def replace(self, dice):
        """An empty directory takes the place of one; that one is away, under another name."""
        at = dice.randrange(len(self.given))
        self.away, self.replaced = self.given[at] + "-away", self.given[at]
        os.rename(self.replaced, self.away)

    def put_back(self, dice, anywhere):
        """What was away returns. What was written in its place becomes a directory of its own."""
        if self.replaced:
            known = self.path(self.made)
            self.made += 1
            if os.path.isdir(self.replaced):
                os.rename(self.replaced, known)
            os.rename(self.away, self.replaced)
            self.given = [known if d == self.replaced else d for d in self.given]
            self.away, self.replaced = self.replaced, None
        if self.away:
            at = dice.randrange(len(self.given) + 1) if anywhere else len(self.given)
            self.given.insert(at, self.away)
        self.away = None

    def partitions(self):
        """Path and topic id of every directory of a partition, by (topic, partition)."""
        found = {}
        for path in glob.glob(os.path.join(self.root, "disk-*", "*-*")):
            match = re.fullmatch(r"(.+)-(\d+)", os.path.basename(path))
            if match and os.path.isdir(path):
                found.setdefault((match[1], int(match[2])), []).append((path, stored_id(path)))
        return found

    def metadata(self):
        """The directory with the broker's metadata."""
        found = [
            p
            for p in self.given + [self.away]
            if p and any(os.path.isdir(os.path.join(p, m)) for m in METADATA_LOGS)
        ]
        return found[0] if found else None


def read_text(path):
    """The text of a file; empty if it cannot be read."""
    with contextlib.suppress(OSError), open(path) as text:
        return text.read()
    return ""


def stored_id(path):
    """The topic id in a partition's directory."""
    found = re.search(r"topic_id: (\S+)", read_text(os.path.join(path, "partition.metadata")))
    with contextlib.suppress(ValueError):
        return found and uuid.UUID(bytes=base64.urlsafe_b64decode(found[1] + "=="))
    return None


class World:
    """A broker, its clients, and what was acknowledged to them."""

    def __init__(self, dice, features):
        self.dice, self.features = dice, features
        directory = temp_dir()
        self.disks = Disks(directory)
        self.broker = Broker(directory=directory, start=False, **OVERRIDES)
        self.ending, self.lives, self.ids, self.producers = threading.Event(), {}, set(), set()
        self.commits, self.actors, self.lasting_ids = Commits(), [], {}
        self.offline, self.doubtful, self.broken, self.located = {}, set(), {}, {}
        self.repair, self.start_seconds = None, 0.1
        self.count = dict.fromkeys(
            (
                "kills",
                "stops",
                "killed starts",
                "refused starts",
                "directories away",
                "topics created",
                "topics deleted",
                "DeleteRecords",
            ),
            0,
        )
        self.lasting_read = {}

    # What clients do. Whoever calls is the only one who does so for this name.

    def create(self, c, name, dice):
        kind = dice.choice(list(KINDS))
        life = self.lives[name] = Life(name, kind, dice)
        topic_id = c.create_topic(name, PARTITIONS, **KINDS[kind])
        assert topic_id not in self.ids, f"WRONG: the topic id {topic_id} of {name} is given again"
        self.ids.add(topic_id)
        life.born(topic_id)
        self.count["topics created"] += 1

    def delete(self, c, life):
        life.begin_deletion()
        code = (
            c.call("DeleteTopics", 5, {"TopicNames": [life.name], "TimeoutMs": 30000})
            .Responses[0]
            .ErrorCode
        )
        assert code == 0, f"{life.name} cannot be deleted: error {code}"
        life.died()
        self.lives[life.name] = None
        self.count["topics deleted"] += 1

    def create_reserved(self, c, dice):
        name = dice.choice(("__corelane_metadata", "__cluster_metadata", "__corelane_other"))
        topic = {"Name": name, "NumPartitions": 1, "ReplicationFactor": 1}
        answer = c.call("CreateTopics", 7, {"Topics": [topic], "timeoutMs": 30000})
        code = answer.Topics[0].ErrorCode
        assert code in (INVALID_TOPIC, INVALID_REQUEST), (
            f"WRONG: a client may create {name}: error {code}"
        )

    def producer_id(self, c):
        answer = c.call(
            "InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000}
        )
        assert answer.ErrorCode == 0, f"no producer id: {answer}"
        assert answer.ProducerId not in self.producers, (
            f"WRONG: producer id {answer.ProducerId} is given again"
        )
        self.producers.add(answer.ProducerId)
        return answer.ProducerId

    def produce(self, c, part, acks, topic, version=9):
        """One batch; the error code."""
        if part.idempotent and part.producer is None:
            part.producer = self.producer_id(c)
        first, data = part.next_batch()
        c.send("Produce", version, produce_body(topic, {part.number: data}, acks))
        answer = c.receive().Responses[0].PartitionResponses[0]
        if answer.ErrorCode == 0:
            part.acked(first, len(part.sent) - first, answer.BaseOffset)
        else:
            gone = part.number == BY_ID and part.life.state != "alive"
            away = self.missing(part.life.name, part.number)
            assert answer.ErrorCode in ABSENT and (gone or away), (
                f"{part}: error {answer.ErrorCode} at produce"
            )
        return answer.ErrorCode

    def delete_records(self, c, life, dice):
        part = dice.choice(life.parts)
        offset = dice.randrange(max(part.at, default=0) + 1)
        part.asked = max(part.asked, offset)
        topic = {
            "Name": life.name,
            "Partitions": [{"PartitionIndex": part.number, "Offset": offset}],
        }
        answer = (
            c.call("DeleteRecords", 2, {"Topics": [topic], "TimeoutMs": 30000})
            .Topics[0]
            .Partitions[0]
        )
        if answer.ErrorCode == 0:
            part.deleted(answer.LowWatermark)
            self.count["DeleteRecords"] += 1
        else:
            # Below the log start there is nothing to delete.
            away = answer.ErrorCode in ABSENT and self.missing(life.name, part.number)
            assert answer.ErrorCode == 1 or away, (
                f"{part}: error {answer.ErrorCode} at DeleteRecords({offset})"
            )

    def missing(self, name, partition):
        return (name, partition) in self.offline or (name, partition) in self.doubtful

    # A round.

    def load(self, seconds):
        self.ending.clear()
        owners = [Owner(self, NAMES[n::OWNERS]) for n in range(OWNERS)]
        committers = COMMITTERS if "commits" in self.features else 0
        committers = [Committer(self, GROUPS[n::COMMITTERS]) for n in range(committers)]
        self.actors = owners + committers + [ById(self)]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not any(actor.error for actor in self.actors):
            time.sleep(0.01)
        self.lasting.check()
        self.broker.check_alive()

    def end(self, clean):
        """Ends the broker beside its clients, and takes note of what holds from now on."""
        self.ending.set()
        if clean:
            code = self.broker.terminate()
            assert code == 0, f"the stop ended with {code}: {self.broker.log_tail()}"
        else:
            self.broker.kill()
        for actor in self.actors:
            actor.join(WAIT_SECONDS)
            assert not actor.is_alive(), "a client still waits for an answer of the ended broker"
        for actor in self.actors:
            if actor.error:
                raise actor.error
        self.count["stops" if clean else "kills"] += 1

    def arrange(self):
        """Changes the directories for the next start."""
        dice, disks = self.dice, self.disks
        if self.repair:
            self.repair()
            self.repair = None
        disks.put_back(dice, "order" in self.features)
        if "order" in self.features and dice.random() < 0.5:
            dice.shuffle(disks.given)
        if "new" in self.features and len(disks.given) < MOST_DIRS and dice.random() < 0.1:
            disks.add(dice)
        if "copy" in self.features and dice.random() < 0.25:
            self.refuse_copies()
        if "broken" in self.features and dice.random() < 0.25:
            self.break_partition()
        elif "away" in self.features and dice.random() < 0.3:
            disks.take_out(dice)
        elif "empty" in self.features and len(disks.given) < MOST_DIRS and dice.random() < 0.2:
            disks.replace(dice)
        if disks.away:
            self.count["directories away"] += 1
            if disks.away == disks.metadata():
                self.refused("metadata")
                disks.put_back(dice, "order" in self.features)
        self.broker.overrides["log.flush.offset.checkpoint.interval.ms"] = dice.choice(
            (1000, 60_000)
        )
        self.broker.cores = dice.choice((1, 2))

    def refuse_copies(self):
        """A second copy of a living partition, in another directory: refused until one is gone."""
        path = self.directory(self.dice.choice(self.living()))
        others = [d for d in self.disks.given if path and d != os.path.dirname(path)]
        if not others:
            return
        copy = os.path.join(self.dice.choice(others), os.path.basename(path))
        if os.path.exists(copy):
            return
        shutil.copytree(path, copy)
        self.refused(re.escape(path), re.escape(copy))
        shutil.rmtree(copy)

    def break_partition(self):
        """A partition's last segment is a directory, or its id is none, until `repair`."""
        where = self.dice.choice(self.living())
        path = self.directory(where)
        logs = sorted(glob.glob(os.path.join(path, "*.log"))) if path else []
        if not logs:
            return
        ids = os.path.join(path, "partition.metadata")
        broken = self.dice.choice((logs[-1], ids))
        aside = os.path.join(self.disks.root, "aside")
        os.rename(broken, aside)
        if broken == ids:
            with open(ids, "w") as out:
                out.write(NO_ID)
        else:
            os.mkdir(broken)
        wanted = self.broken[where] = self.living_id(where[0])

        def repair():
            self.broken.clear()
            # Under its name there may be the directory of a later topic by now.
            if broken == ids:
                same = read_text(ids) == NO_ID
            else:
                same = stored_id(path) == wanted
                if os.path.isdir(broken):
                    os.rmdir(broken)
            if same:
                os.rename(aside, broken)
            else:
                os.remove(aside)  # with its topic

        self.repair = repair

    def living_id(self, name):
        life = self.lives.get(name)
        return life.id if life else self.lasting_ids.get(name)

    def living(self):
        """Every partition whose topic surely is there."""
        names = [life.name for life in self.lives.values() if life and life.state == "alive"]
        found = [(name, p) for name in names for p in range(PARTITIONS)]
        found += [(LASTING, p) for p in range(LASTING_PARTITIONS)]
        return found + [(OFFSETS, p) for p in range(OFFSETS_PARTITIONS)]

    def directory(self, where):
        """The directory of a living partition, if it is there."""
        wanted = self.living_id(where[0])
        return next(
            (p for p, topic in self.disks.partitions().get(where, ()) if topic == wanted), None
        )

    def refused(self, *reasons):
        """Starts the broker, which must end with 1 and give these reasons."""
        said = self.try_start()
        assert said is not None, f"WRONG: it started, although it should have refused for {reasons}"
        missing = [r for r in reasons if not re.search(r, said)]
        assert self.broker.process.returncode == 1 and not missing, (
            f"WRONG: refused without {missing}: {said[-800:]}"
        )
        self.count["refused starts"] += 1

    def try_start(self):
        """Starts the broker. Returns what it says if it refuses.

        The kernel gives back the locked memory of a killed process's rings some time after its end.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while (said := self.start_once()) and NO_MEMORY in said and time.monotonic() < deadline:
            time.sleep(0.2)
        return said

    def start_once(self):
        self.broker.overrides["log.dirs"] = ",".join(self.disks.given)
        mark = os.path.getsize(self.broker.log) if os.path.exists(self.broker.log) else 0
        try:
            self.broker.start()
            return None
        except AssertionError:
            assert self.broker.process.poll() is not None, (
                f"the broker does not get ready: {self.broker.log_tail()}"
            )
            with open(self.broker.log, errors="replace") as log:
                log.seek(mark)
                return log.read()

    def start(self):
        """Starts the broker; some starts before are killed."""
        self.located = self.disks.partitions()
        self.broker.overrides["log.dirs"] = ",".join(self.disks.given)
        for _ in range(self.dice.choice((0, 0, 1, 2)) if "kill" in self.features else 0):
            with contextlib.suppress(AssertionError):  # a start that ends is found below
                self.count["killed starts"] += self.broker.kill_start(
                    self.dice.uniform(0, self.start_seconds)
                )
        begun = time.monotonic()
        said = self.try_start()
        order = [os.path.basename(d) for d in self.disks.given]
        assert said is None, (
            f"WRONG: refused with {order}, away is {self.disks.away}: {said[-800:]}"
        )
        self.start_seconds = time.monotonic() - begun

    def find_offline(self, located):
        """Which partitions cannot be there in this run, and why; and which may be missing."""
        self.offline, self.doubtful = {}, set()
        lives = [(life.name, p) for life in self.lives.values() if life for p in range(PARTITIONS)]
        for where in {*self.living(), *lives}:
            wanted = self.living_id(where[0])
            paths = [p for p, topic in located.get(where, ()) if topic == wanted]
            away = [p for p in paths if os.path.dirname(p) == self.disks.away]
            if self.broken.get(where) == wanted:
                self.offline[where] = "its directory cannot be read"
            elif paths and paths == away:
                self.offline[where] = f"its directory {paths[0]} is away"
            elif self.disks.away and not paths:
                self.doubtful.add(where)

    # What a start has found.

    def verify(self):
        with Connection(self.broker.address, timeout=WAIT_SECONDS) as c:
            self.check_topics(c)
            self.find_offline(self.located)
            for life in [life for life in self.lives.values() if life]:
                for part in life.parts:
                    self.check_part(c, part)
            self.check_lasting(c)
            for life in [life for life in self.lives.values() if life]:
                self.check_commits(c, life)
            self.producer_id(c)

    def check_topics(self, c):
        topics = {t.Name: t.TopicId for t in c.call("Metadata", 12, {"Topics": None}).Topics}
        unknown = set(topics) - {*NAMES, LASTING, OFFSETS}
        assert not unknown, f"WRONG: topics that nobody has created: {unknown}"
        assert {LASTING, OFFSETS} <= set(topics), (
            f"LOST: of the topics that stay there are {set(topics)}"
        )
        for name in NAMES:
            life, found = self.lives.get(name), topics.get(name)
            if life is None:
                assert found is None, f"RETURNED: the deleted topic {name} is there as {found}"
            elif life.state == "creating":
                assert found not in self.ids, f"RETURNED: an earlier {name} is there as {found}"
                if found:
                    self.ids.add(found)
                    life.born(found)
                else:
                    self.lives[name] = None
            elif life.state == "deleting" and found is None:
                life.died()
                self.lives[name] = None
            else:
                assert found == life.id, f"LOST: {name} was created as {life.id}, there is {found}"
                life.state, life.deletion[0] = "alive", None

    def check_part(self, c, part):
        reason = self.offline.get((part.life.name, part.number))
        if reason:
            return self.check_absent(c, part, reason)
        if (part.life.name, part.number) in self.doubtful and c.list_offset(
            part.life.name, part.number, -1
        ).ErrorCode:
            return None
        start, end = (self.offset(c, part.life.name, part.number, which) for which in (-2, -1))
        for _ in range(1000):
            batches = self.batches(c, part, start, end)
            moved, start = start, self.offset(c, part.life.name, part.number, -2)
            if moved == start:
                break
        return part.check(start, end, batches)

    def batches(self, c, part, start, end):
        """All batches from `start` on, unless retention moves the start meanwhile."""
        try:
            return c.fetch_all(part.life.name, part.number, start) if start < end else []
        except AssertionError:
            if self.offset(c, part.life.name, part.number, -2) == start:
                raise
            return []

    def check_absent(self, c, part, reason):
        """A partition whose data is not there neither answers nor acknowledges."""
        code = self.produce(c, part, -1, part.life.name)
        answer = c.list_offset(part.life.name, part.number, -1)
        assert code and answer.ErrorCode, (
            f"WRONG: {part}: {reason}, but produce answers {code}, and ListOffsets "
            f"{answer.ErrorCode} with offset {answer.Offset}"
        )

    def offset(self, c, name, partition, which):
        answer = c.list_offset(name, partition, which)
        assert answer.ErrorCode == 0, (
            f"LOST: {name}-{partition}: error {answer.ErrorCode}: {self.broker.log_tail()}"
        )
        return answer.Offset

    def check_lasting(self, c):
        """The topic that is never deleted, from the last records read before on."""
        acknowledged = {}
        for topic, partition, offset, value in self.lasting.acknowledged:
            acknowledged.setdefault(partition, {})[offset] = value
        for partition in range(LASTING_PARTITIONS):
            if (LASTING, partition) in self.offline:
                continue
            known, step = acknowledged.get(partition, {}), LASTING_PARTITIONS
            begin = max(0, self.lasting_read.get(partition, 0) - 20)
            assert self.offset(c, LASTING, partition, -2) == 0, (
                f"LOST: {LASTING}-{partition} starts above 0"
            )
            found = {
                r.offset: r.value for b in c.fetch_all(LASTING, partition, begin) for r in b.records
            }
            end = max(found, default=begin - 1) + 1
            last = max(known, default=-1)
            assert end > last, f"LOST: {LASTING}-{partition} ends at {end}, {last} was acknowledged"
            for offset in range(begin, end):
                wanted = b"%d" % (offset * step + partition)
                assert found.get(offset) == wanted and known.get(offset, wanted) == wanted, (
                    f"LOST: {LASTING}-{partition} offset {offset} "
                    f"is {found.get(offset)}, {wanted} was sent"
                )
            self.lasting_read[partition] = end

    def check_commits(self, c, life):
        """The offsets that each group is told for a life."""
        since = time.monotonic()
        wanted = [{"Name": life.name, "PartitionIndexes": [0]}]
        left, deadline = set(GROUPS), time.monotonic() + WAIT_SECONDS
        while left:
            asked = [{"GroupId": g, "Topics": wanted, "MemberEpoch": -1} for g in sorted(left)]
            for group in c.call("OffsetFetch", 8, {"Groups": asked}).Groups:
                away = self.offline.get(
                    (OFFSETS, group_partition(group.GroupId, OFFSETS_PARTITIONS))
                )
                if group.ErrorCode == 0:
                    offset = group.Topics[0].Partitions[0].CommittedOffset
                    assert not away, (
                        f"WRONG: {group.GroupId}: {away}, yet {offset} is told for {life.name}"
                    )
                    self.commits.check(group.GroupId, life, offset, since)
                else:
                    assert group.ErrorCode in COORDINATOR_ABSENT, (
                        f"{group.GroupId}: error {group.ErrorCode}"
                    )
                if group.ErrorCode == 0 or away:
                    left.discard(group.GroupId)
            assert time.monotonic() < deadline, (
                f"LOST: no coordinator for {left}: {self.broker.log_tail()}"
            )

    def set_up(self):
        assert self.try_start() is None, self.broker.log_tail()
        with Connection(self.broker.address) as c:
            c.create_topic(LASTING, LASTING_PARTITIONS)
            find = {"KeyType": 0, "CoordinatorKeys": GROUPS}
            eventually(
                lambda: all(
                    a.ErrorCode == 0 for a in c.call("FindCoordinator", 4, find).Coordinators
                )
            )
            self.lasting_ids = {name: c.topic_id(name) for name in (LASTING, OFFSETS)}
        self.lasting = Lasting(self.broker, LASTING)
        # librdkafka waits long for its first metadata where the broker ends meanwhile.
        eventually(lambda: len(self.lasting.acknowledged) > 100)


class Lasting(Librdkafka):
    """An idempotent producer of librdkafka to the topic that stays, across all that happens."""

    partitions, most_in_flight = LASTING_PARTITIONS, 40


def run(rounds, seed=None, features=FEATURES):
    """Returns a summary; raises at the first thing that is lost, or returns."""
    dice = random.Random(seed)
    world = World(dice, features)
    try:
        world.set_up()
        for number in range(rounds):
            world.load(dice.uniform(0.1, 0.8))
            world.end("stop" in features and dice.random() < 0.3)
            world.arrange()
            world.start()
            world.verify()
            told = ", ".join(f"{count} {what}" for what, count in world.count.items())
            print(f"round {number + 1} of {rounds}: {told}", file=sys.stderr, flush=True)
        world.end(clean=True)
        world.features = ()
        world.arrange()
        world.start()
        world.verify()
        world.lasting.stop()
    finally:
        world.ending.set()
        world.broker.kill()
    shutil.rmtree(world.broker.directory, ignore_errors=True)
    told += f", {world.commits.acknowledged()} commits"
    told += f", {len(world.lasting.acknowledged)} records of {LASTING}"
    return f"{rounds} rounds: {told}; nothing lost, nothing returned"


def main():
    raise_file_limit()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(os.environ.get("SEED", time.time_ns() % 10**6))
    features = os.environ.get("FEATURES", ",".join(FEATURES)).split(",")
    with_what = f"SEED={seed} FEATURES={','.join(features)}"
    try:
        print(f"crash-identity: {run(rounds, seed, features)} ({with_what})", flush=True)
    except AssertionError as error:
        print(f"crash-identity: FAILED: {' '.join(str(error).split())} ({with_what})", flush=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
