"""Starts brokers for the tests, runs the tests of one file, and runs all files one after another.

    harness.py                     every test_*.py beside this file, each in a process of its own
    harness.py FILE [NAME...]      the tests of one file, or those whose names contain one of NAME

A test file holds functions `test_*`. One that takes `broker` shares the file's broker, started before the first such test
with the file's OVERRIDES. Others start what they need themselves with `Broker(...)`. `tear_down`, if there is one, is called at
the end when no test has failed.
"""

import contextlib
import glob
import importlib
import inspect
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TARGET = os.environ.get("TARGET", "corelane")
KAFKA = TARGET == "kafka"
LIBS = os.environ.get("KAFKA_LIBS", "")
CORELANE = os.environ.get("CORELANE", os.path.join(ROOT, "target/release/corelane"))
WORK = os.environ.get("INTEROP_DIR", os.path.join(ROOT, "target/interop"))
# What Kafka's tools are started with.
JAVA = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{LIBS}/*"]
# The long turns that brokers of this run have told of.
TURNS = os.path.join(WORK, "turns")
START_SECONDS = 90
STOP_SECONDS = 60
FILE_SECONDS = int(os.environ.get("INTEROP_FILE_SECONDS", "400"))
# What one node of Kafka needs besides. Corelane is started without, so that its defaults are tested.
KAFKA_EXTRA = {
    "offsets.topic.replication.factor": 1, "transaction.state.log.replication.factor": 1, "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1, "share.coordinator.state.topic.min.isr": 1,
}
ports_given = set()


def free_port():
    """A port nobody listens on, below the range that outgoing connections take theirs from."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            with contextlib.suppress(OSError):
                if port not in ports_given:
                    probe.bind(("127.0.0.1", port))
                    ports_given.add(port)
                    return port


def temp_dir():
    os.makedirs(WORK, exist_ok=True)
    return tempfile.mkdtemp(prefix=f"{TARGET}-", dir=WORK)


class Broker:
    """A broker process of its own, on a data directory that outlives restarts."""

    def __init__(self, directory=None, port=None, cores=2, start=True, confine=None, **overrides):
        """`confine` runs in the broker's process before the broker does: see confine.py."""
        self.directory = directory or temp_dir()
        self.confine = confine
        self.data = os.path.join(self.directory, "data")
        self.log = os.path.join(self.directory, "broker.log")
        self.port = port or free_port()
        self.address = ("127.0.0.1", self.port)
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.cores = cores
        self.overrides = {k.replace("_", "."): v for k, v in overrides.items()}
        self.process, self.used, self.turns_noted = None, False, 0
        if start:
            self.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.kill()
        if kind is None:
            shutil.rmtree(self.directory, ignore_errors=True)

    def start(self):
        """Starts the broker and returns once it accepts connections."""
        self.process = self.spawn()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the broker ended at its start with {self.process.returncode}: {self.log_tail()}")
            if self.accepts():
                break
            time.sleep(0.02)
        else:
            raise AssertionError(f"the broker does not accept connections: {self.log_tail()}")
        self.used = True
        if KAFKA:
            self.await_kafka_controller()
        return self

    def accepts(self):
        """Whether the port accepts, which it may do only once the broker serves: the tests send their requests at once.

        The kernel takes the rings of a killed process apart a little after its end, and its listening socket with them.
        So what accepts after a restart may be the dead broker's: then one answer is waited for.
        """
        from raw import Closed, Connection

        with contextlib.suppress(OSError, Closed), Connection(self.address, timeout=5) as c:
            return not self.used or c.call("ApiVersions", 0).ErrorCode == 0
        return False

    def spawn(self, output=None):
        """The process as such, its output appended to the log unless it goes elsewhere."""
        # KAFKA_ names are settings to a broker, and ours for the tests is none.
        environment = {k: v for k, v in os.environ.items() if k != "KAFKA_LIBS"}
        with open(self.log, "ab") as log:
            log = log if output is None else output
            return subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory, env=environment, preexec_fn=self.confine)

    def command(self):
        if KAFKA:
            return self.kafka_command()
        overrides = {
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port}", "log.dirs": self.data, "corelane.cores": self.cores, **self.overrides,
        }
        return [CORELANE, "serve"] + [part for k, v in overrides.items() for part in ("--override", f"{k}={v}")]

    def kafka_command(self):
        heap = os.environ.get("KAFKA_HEAP", "1g")
        java = ["java", f"-Xmx{heap}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{LIBS}/*"]
        config = os.path.join(self.directory, "server.properties")
        fresh = not os.path.exists(os.path.join(self.data, "meta.properties"))
        write_properties(config, self.port, self.data, {**KAFKA_EXTRA, **{k: v for k, v in self.overrides.items() if not k.startswith("corelane.")}})
        if fresh:
            storage = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", config]
            subprocess.run(java + storage, check=True, stdout=subprocess.DEVNULL)
        return java + ["kafka.Kafka", config]

    def await_kafka_controller(self):
        """Kafka accepts connections a little before it can create topics."""
        from raw import Closed, Connection

        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, Closed), Connection(self.address) as c:
                if c.call("CreateTopics", 7, {"Topics": [{"Name": "ready", "NumPartitions": 1, "ReplicationFactor": 1}], "timeoutMs": 30000, "validateOnly": True}).Topics[0].ErrorCode == 0:
                    return
            time.sleep(0.2)
        raise AssertionError("Kafka's controller does not answer")

    def terminate(self):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_SECONDS)
        self.note_turns()
        return code

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.note_turns()

    def note_turns(self):
        """Adds what the log tells of long turns, since the last call, to the list of this run."""
        with contextlib.suppress(OSError), open(self.log, errors="replace") as log, open(TURNS, "a") as turns:
            log.seek(self.turns_noted)
            text = log.read()
            self.turns_noted += len(text.encode(errors="replace"))
            for ms, cause in re.findall(r"a turn took (\d+) ms, (.*)", text):
                turns.write(f"{ms} ms in {os.path.basename(sys.argv[1]) if len(sys.argv) > 1 else ''}: {cause}\n")

    def kill_start(self, seconds):
        """A start that is killed after so long; whether it was, as it had not got ready before."""
        ready = self.times_ready()
        self.process = self.spawn()
        time.sleep(seconds)
        self.check_alive()
        self.kill()
        return self.times_ready() == ready

    def times_ready(self):
        """How often the broker has got ready in all of its lives."""
        with open(self.log, errors="replace") as log:
            return log.read().count("ready after")

    def memory(self):
        """(VmRSS, VmHWM) in bytes."""
        with open(f"/proc/{self.process.pid}/status") as status:
            found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status.read(), re.M))
        return int(found["VmRSS"]) * 1024, int(found["VmHWM"]) * 1024

    def check_alive(self):
        assert self.process.poll() is None, f"the broker ended with {self.process.returncode}: {self.log_tail()}"

    def log_tail(self):
        with contextlib.suppress(OSError), open(self.log, errors="replace") as log:
            return " | ".join(line.strip() for line in log.readlines()[-4:])[-600:]
        return "no log"


class Kafka(Broker):
    """A broker of Kafka itself, whatever the target."""

    def command(self):
        return self.kafka_command()

    def start(self):
        super().start()
        if not KAFKA:
            self.await_kafka_controller()
        return self


def write_properties(path, port, data, more, controller_port=None):
    """A server.properties as people write it for one KRaft node."""
    controller_port = controller_port or free_port()
    lines = {
        "process.roles": "broker,controller", "node.id": 1, "controller.quorum.voters": f"{more.get('node.id', 1)}@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}", "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT", "log.dirs": data, **more,
    }
    with open(path, "w") as out:
        out.writelines(f"{k}={v}\n" for k, v in lines.items())


def java(main, *args, stdin=None, timeout=120):
    """Runs one of Kafka's own tools; returns (exit code, stdout, stderr)."""
    done = subprocess.run([*JAVA, main, *args], input=stdin, capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


def eventually(check, seconds=30, pause=0.05):
    """Calls `check` until it returns something true, which is returned."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds} s: {inspect.getsource(check).strip()}"
        time.sleep(pause)


def in_threads(functions, timeout=240):
    """Runs the functions at once; raises the first error of any of them."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    while any(t.is_alive() for t in threads) and not errors and time.monotonic() < deadline:
        time.sleep(0.02)
    if errors:
        raise errors[0]
    assert not any(t.is_alive() for t in threads), f"not finished within {timeout} s"


def run_file(path, wanted):
    """Runs one file's tests in this process, printing one line each; returns how many failed."""
    raise_file_limit()
    # Who is started in the background of a shell ignores SIGINT and has its children ignore it: a Java tool would then never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name = os.path.basename(path)[: -len(".py")]
    module = importlib.import_module(name)
    tests = [(n, f) for n, f in vars(module).items() if n.startswith("test_") and callable(f) and f.__module__ == name]
    broker, failed = None, 0
    if wanted and not any(w in f"{name}.{n}" for w in wanted for n, _ in tests):
        print(f"no test of {path} has one of these in its name: {', '.join(wanted)}", file=sys.stderr)
        return 1
    try:
        for test, function in tests:
            label = f"{name.removeprefix('test_')}.{test.removeprefix('test_')}"
            if wanted and not any(w in label for w in wanted):
                continue
            try:
                if "broker" in inspect.signature(function).parameters:
                    broker = broker or Broker(**getattr(module, "OVERRIDES", {}))
                    function(broker)
                    broker.check_alive()
                else:
                    function()
                print(f"ok {label}", flush=True)
            except Exception as error:  # noqa: BLE001 - reported
                failed += 1
                traceback.print_exc()
                where = traceback.extract_tb(error.__traceback__)[-1]
                why = " ".join(str(error).split())[:700] or where.line
                print(f"FAILED {label}: {type(error).__name__} {why} ({os.path.basename(where.filename)}:{where.lineno})", flush=True)
                if broker and broker.process and broker.process.poll() is not None:
                    broker = None  # the next test gets a new one
    finally:
        if broker:
            broker.kill()
            if not failed:
                shutil.rmtree(broker.directory, ignore_errors=True)
        if not failed and hasattr(module, "tear_down"):
            module.tear_down()
    return failed


def raise_file_limit():
    """As many open files as allowed, for us and for the brokers we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_all():
    """Runs every file in a process group of its own, which is killed when its tests are over."""
    passed = failed = 0
    os.makedirs(WORK, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.remove(TURNS)
    for path in sorted(glob.glob(os.path.join(HERE, "test_*.py"))):
        name = os.path.basename(path)[len("test_") : -len(".py")]
        before, bad, started = passed + failed, failed, time.monotonic()
        child = subprocess.Popen([sys.executable, __file__, path], stdout=subprocess.PIPE, text=True, start_new_session=True)
        timer = threading.Timer(FILE_SECONDS, kill_group, [child.pid])
        timer.start()
        try:
            for line in child.stdout:
                passed += line.startswith("ok ")
                failed += line.startswith("FAILED ")
                print(line, end="", flush=True)
            child.wait()
        finally:
            timer.cancel()
            kill_group(child.pid)
        if child.returncode != (1 if failed > bad else 0) or passed + failed == before:
            failed += 1
            why = f"not done after {FILE_SECONDS} s" if child.returncode == -signal.SIGKILL else f"ended with {child.returncode}"
            print(f"FAILED {name}: {why}", flush=True)
        print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    tell_turns()
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def tell_turns(count=5):
    """Prints the longest turns of all brokers of the run."""
    with contextlib.suppress(FileNotFoundError), open(TURNS) as turns:
        for line in sorted(turns, key=lambda line: -int(line.split()[0]))[:count]:
            print(f"turn of {line.strip()}", flush=True)


def kill_group(group):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.path.insert(0, HERE)
    sys.modules["harness"] = sys.modules["__main__"]
    if len(sys.argv) == 1:
        sys.exit(run_all())
    name, *wanted = sys.argv[1:]
    if not os.path.exists(name) and "." in name.removesuffix(".py"):
        name, test = name.split(".", 1)
        wanted.append(test)
    if not os.path.exists(name):
        name = os.path.join(HERE, f"test_{name.removeprefix('test_').removesuffix('.py')}.py")
    sys.path.insert(0, os.path.dirname(os.path.abspath(name)))
    if not os.path.exists(name):
        sys.exit(f"there is no {name}")
    failed = run_file(name, wanted)
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # threads of a failed test may still wait


if __name__ == "__main__":
    main()
