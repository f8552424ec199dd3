"""Both brokers behind one interface: start on a core, a fresh data directory, stop."""

import os
import shutil
import signal
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
START_SECONDS = 60
REMOVAL_SECONDS = 15
# What one node of Kafka needs, and deleted topics gone at once: the disk is not large. Everything else is its default.
KAFKA_SETTINGS = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.segment.delete.delay.ms=1000
"""


class Broker:
    """A running broker. `command` starts it; it is ready when its port accepts connections."""

    def __init__(self, name, command, directory, port, cpu):
        self.name, self.port, self.directory = name, port, directory
        self.address = f"127.0.0.1:{port}"
        self.log = os.path.join(directory, "broker.log")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KAFKA_")}
        started = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(["taskset", "-c", cpu, *command], stdout=log, stderr=log, cwd=directory, env=environment)
        while not self.accepts():
            if self.process.poll() is not None or time.monotonic() - started > START_SECONDS:
                with open(self.log, errors="replace") as log:
                    raise SystemExit(f"scripts/versus: {name} does not start:\n{log.read()[-2000:]}")
            time.sleep(0.0005)
        self.start_ms = (time.monotonic() - started) * 1000

    @property
    def pid(self):
        return self.process.pid

    def accepts(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def await_removal(self):
        """Until deleted topics are off the disk: both brokers remove them in the background, and the next load would run beside that."""
        deadline = time.monotonic() + REMOVAL_SECONDS
        while time.monotonic() < deadline and any(name.endswith("-delete") for _, names, _ in os.walk(self.directory) for name in names):
            time.sleep(0.2)

    def resident_mib(self):
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

    def read_bytes(self):
        """Bytes that the process has had read from disks."""
        with open(f"/proc/{self.pid}/io") as io:
            return next(int(line.split()[1]) for line in io if line.startswith("read_bytes"))

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def thread_seconds(self):
        """CPU time of each thread that lives, to the nanosecond: for processes that hardly use any."""
        seconds = {}
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{task}/schedstat") as schedstat:
                seconds[task] = int(schedstat.read().split()[0]) / 1e9
        return seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def corelane(directory, port, cpu, settings=()):
    os.makedirs(directory)
    settings = [f"listeners=PLAINTEXT://127.0.0.1:{port}", f"log.dirs={os.path.join(directory, 'data')}", *settings]
    command = [os.path.join(ROOT, "target/release/corelane"), "serve"]
    for setting in settings:
        command += ["--override", setting]
    return Broker("corelane", command, directory, port, cpu)


def kafka(directory, port, cpu, libs, heap, settings=()):
    os.makedirs(directory)
    path = os.path.join(directory, "server.properties")
    with open(path, "w") as file:
        file.write(KAFKA_SETTINGS.format(port=port, controller=port + 1, data=os.path.join(directory, "data")))
        file.writelines(f"{setting}\n" for setting in settings)
    # The options of Kafka's own start script.
    java = ["java", f"-Xmx{heap}", f"-Xms{heap}", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"]
    java += ["-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{libs}/*"]
    storage = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", path]
    subprocess.run(java + storage, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Broker("kafka", java + ["kafka.Kafka", path], directory, port, cpu)
