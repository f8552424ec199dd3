"""The power is cut under load, again and again, on a real file system: `powercut.py [ROUNDS]`. Needs root, loop devices and /dev/fuse.

The broker's data lies on ext4, on a loop device, on a disk that forgets what was not flushed (volatile_disk.py). After each cut the file
system and the broker start from what the disk kept, and every record that was acknowledged with acks=all must be there; so must every offset
that was committed.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from crash import PARTITIONS, Librdkafka, Load, Raw, Store, wait  # noqa: E402
from harness import HERE, Broker, raise_file_limit, temp_dir  # noqa: E402
from raw import Closed, Connection  # noqa: E402

IMAGE_BYTES = 1 << 30


class Machine:
    """The stack below the broker: image, volatile disk, loop device, file system."""

    def __init__(self, directory):
        self.directory = directory
        self.fuse, self.mount = os.path.join(directory, "fuse"), os.path.join(directory, "mount")
        self.image = os.path.join(directory, "image-0")
        self.number = 0
        os.mkdir(self.fuse), os.mkdir(self.mount)
        with open(self.image, "wb") as image:
            image.truncate(IMAGE_BYTES)
        run("mkfs.ext4", "-q", self.image)
        self.disk = self.loop = None
        self.up()

    def up(self):
        command = [sys.executable, os.path.join(HERE, "volatile_disk.py"), self.fuse, self.image]
        self.disk = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.disk.stdout.readline() == "ready\n", "the volatile disk does not start"
        self.loop = run("losetup", "-f", "--show", os.path.join(self.fuse, "disk")).strip()
        run("mount", self.loop, self.mount)

    def cut(self, seed):
        """What the disk would hold now becomes the next life's image."""
        self.number += 1
        path = os.path.join(self.directory, f"image-{self.number}")
        self.tell(f"cut {path} {seed}")
        return path

    def hold(self):
        """From now on no flush ends before the cut."""
        self.tell("hold")

    def tell(self, line):
        self.disk.stdin.write(line + "\n")
        self.disk.stdin.flush()
        assert self.disk.stdout.readline() == "done\n"

    def down(self):
        for command in (["umount", self.mount], ["losetup", "-d", self.loop], ["umount", self.fuse]):
            for _ in range(100):
                if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                    break
                time.sleep(0.1)
        self.disk.stdin.close()
        self.disk.wait(30)

    def replace(self, image):
        self.down()
        for old in (self.image, self.image + ".durable"):
            os.remove(old)
        self.image = image
        self.up()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


class Commits(Load):
    """Offsets of one group, one commit after the other, while not `paused`. `acknowledged` holds the offsets."""

    def __init__(self, broker, group, topic):
        self.group, self.topic, self.paused = group, topic, False
        super().__init__(broker)

    def run(self):
        connection, offset = None, 0
        while not self.stopped:
            if self.paused:
                time.sleep(0.01)
                continue
            offset += 1
            part = {"PartitionIndex": 0, "CommittedOffset": offset, "CommittedLeaderEpoch": -1, "CommittedMetadata": ""}
            body = {"GroupId": self.group, "GenerationIdOrMemberEpoch": -1, "MemberId": "", "Topics": [{"Name": self.topic, "Partitions": [part]}]}
            try:
                connection = connection or self.coordinator()
                code = connection.call("OffsetCommit", 8, body).Topics[0].Partitions[0].ErrorCode
            except (OSError, Closed):
                code, connection = None, None
                time.sleep(0.01)
            if code == 0:
                self.acknowledged.append(offset)
            assert code in (None, 0, 14, 15, 16), f"{self.group}: error {code}"

    def coordinator(self):
        connection = Connection(self.broker.address, timeout=30)
        connection.call("FindCoordinator", 4, {"KeyType": 0, "CoordinatorKeys": [self.group]})
        return connection

    def found(self):
        body = {"Groups": [{"GroupId": self.group, "Topics": [{"Name": self.topic, "PartitionIndexes": [0]}], "MemberEpoch": -1}]}
        while True:
            with Connection(self.broker.address) as c:
                group = c.call("OffsetFetch", 8, body).Groups[0]
            if group.ErrorCode == 0:
                return group.Topics[0].Partitions[0].CommittedOffset
            assert group.ErrorCode == 14, group
            time.sleep(0.05)


def power_cuts(rounds, seed):
    dice = random.Random(seed)
    directory = temp_dir()
    machine = Machine(directory)
    broker = Broker(directory=directory, start=False)
    broker.data = os.path.join(machine.mount, "data")
    try:
        broker.start()
        topics = ["librdkafka-0", "raw-idempotent"]
        with Connection(broker.address) as c:
            c.create_topic(topics[0], PARTITIONS)
            c.create_topic(topics[1])
        loads = [Librdkafka(broker, topics[0]), Raw(broker, topics[1], -1, True)]
        commits = [Commits(broker, group, topics[0]) for group in ("a", "b", "c")]
        store = Store(broker, [(topics[0], p) for p in range(PARTITIONS)] + [(topics[1], 0)])
        for number in range(rounds):
            goal = [len(load.acknowledged) + 30 for load in loads]
            wait(lambda g=goal: all(len(load.acknowledged) >= n for load, n in zip(loads, g)), loads + commits)
            time.sleep(dice.uniform(0, 0.7))
            if dice.random() < 0.5:
                machine.hold()
                time.sleep(0.05)
            # Stopped first, so that nothing is acknowledged after the cut; what the kernel was told to do goes on.
            broker.process.send_signal(signal.SIGSTOP)
            image = machine.cut(seed=number and dice.randrange(1, 1 << 30))
            broker.kill()
            time.sleep(0.2)
            told = [len(load.acknowledged) for load in loads]
            committed = [max(load.acknowledged, default=-1) for load in commits]
            for load in commits:
                load.paused = True  # else the next commit would hide what is lost
            machine.replace(image)
            broker.start()
            store.seen = {part: [] for part in store.seen}  # what was read before, but not flushed, may be gone
            store.read(whole=True)
            for load, count in zip(loads, told):
                store.check(load.acknowledged[:count])
            for load, offset in zip(commits, committed):
                found = load.found()
                assert found >= offset, f"LOST: {load.group}: {offset} was acknowledged, {found} is committed"
                load.paused = False
            print(f"round {number + 1} of {rounds}: {sum(told)} records and {sum(len(load.acknowledged) for load in commits)} commits acknowledged", file=sys.stderr, flush=True)
        commits = sum(len(load.acknowledged) for load in commits)
        return f"{rounds} power cuts: {sum(told)} records acknowledged with acks=all, and {commits} commits; none lost"
    finally:
        broker.kill()
        with contextlib.suppress(Exception):
            machine.down()


def main():
    raise_file_limit()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    seed = int(os.environ.get("SEED", time.time_ns() % 10**6))
    try:
        print(f"powercut: {power_cuts(rounds, seed)} (SEED={seed})", flush=True)
    except AssertionError as error:
        print(f"powercut: FAILED: {error} (SEED={seed})", flush=True)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
