"""kafka-python's own integration tests against our broker: its source archive has them, pip brings it, pytest runs them.

LEFT_OUT are those that do not apply, each with the reason; against Kafka only that about ACLs is left out. Its files about TLS and SASL start
brokers of their own and are not run. The archive lacks two small modules that its tests import; MODULES stand in for them.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile

from harness import KAFKA, WORK, Broker, free_port

VERSION = importlib.metadata.version("kafka-python")
# The broker is started by us, so all that is asked of it is nothing.
MODULES = {
    "__init__.py": "",
    "service.py": "class ExternalService:\n    def __init__(self, host, port):\n        self.host, self.port = host, port\n\n    def stop(self):\n        pass\n\n\nclass SpawnedService:\n    pass\n",
}
# By file and test.
LEFT_OUT = {
    "admin": {
        "test_create_describe_delete_acls": "ACLs: not there; Kafka itself refuses without an authorizer",
        "test_elect_leaders": "ElectLeaders is not there: one replica",
        "test_alter_replica_log_dirs": "AlterReplicaLogDirs is not there",
        "test_describe_metadata_quorum": "DescribeQuorum is not there: no quorum yet",
        "test_alter_partition_reassignments": "AlterPartitionReassignments is not there: one node",
        "test_list_partition_reassignments": "ListPartitionReassignments is not there: one node",
    },
    "producer": {
        "test_transactional_producer_messages": "transactions are not there",
        "test_transactional_producer_offsets": "transactions are not there",
    },
}
# Its consumer asks for no topics for five minutes if `subscribe` falls between its first metadata request and the answer: in one of some tens of runs.
RETRIES = 2
# What its own broker is configured with, as far as its tests count on it.
SETTINGS = {"node_id": 0, "num_partitions": 4, "group_min_session_timeout_ms": 1000, "group_initial_rebalance_delay_ms": 0}


def source():
    """The directory of the unpacked archive."""
    directory = os.path.join(WORK, f"kafka-python-{VERSION}")
    unpacked = os.path.join(directory, f"kafka_python-{VERSION}")
    if not os.path.isdir(os.path.join(unpacked, "test")):
        os.makedirs(directory, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "-d", directory, f"kafka-python=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, f"pip download: {done.stderr.strip()}"
        with tarfile.open(os.path.join(directory, f"kafka_python-{VERSION}.tar.gz")) as archive:
            archive.extractall(directory, filter="data")
    for name, text in MODULES.items():
        with open(os.path.join(unpacked, "test", name), "w") as out:
            out.write(text)
    return unpacked


def run(name):
    """Runs one of its files; fails with what failed in it."""
    directory = source()
    path = f"test/integration/test_{name}_integration.py"
    tests = {t: why for t, why in LEFT_OUT.get(name, {}).items() if not KAFKA or "ACLs" in why}
    left_out = [part for test in tests for part in ("--deselect", f"{path}::{test}")]
    port = free_port()
    with Broker(port=port, advertised_listeners=f"PLAINTEXT://127.0.0.1:{port}", **SETTINGS) as broker:
        failed = pytest(directory, broker, name, [path, *left_out])
        for _ in range(RETRIES):
            if failed:
                failed = pytest(directory, broker, name, [f"{path}::{test}" for test in failed])
        assert not failed, f"failed {1 + RETRIES} times: {failed}, see {WORK}/kafka-python-{name}.out"
        broker.check_alive()


def pytest(directory, broker, name, chosen):
    """Runs some of its tests; those that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "log_level=WARNING", "--tb=short", "-W", "ignore", "-rsfE", *chosen]
    environment = {
        **os.environ, "KAFKA_URI": f"plaintext://127.0.0.1:{broker.port}", "KAFKA_VERSION": "4.3", "KAFKA_ROOT": directory, "PYTHONPATH": directory,
    }
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=350)
    with open(os.path.join(WORK, f"kafka-python-{name}.out"), "a") as file:
        file.write(done.stdout + done.stderr)
    failed = re.findall(r"^(?:FAILED|ERROR) [^\s:]+::(\S+)", done.stdout, re.M)
    assert failed or (done.returncode == 0 and re.search(r"[1-9]\d* passed", done.stdout)), f"pytest: {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}"
    return failed


def test_consumer():
    run("consumer")


def test_producer():
    run("producer")


def test_admin():
    run("admin")
