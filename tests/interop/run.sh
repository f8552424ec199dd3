#!/bin/sh
# Tests of a running broker with real clients. One line per test, then `N passed, N failed`.
#
#   tests/interop/run.sh                    everything
#   tests/interop/run.sh fetch              the tests of test_fetch.py
#   tests/interop/run.sh fetch long_poll    those of them with `long_poll` in the name
#
# CORELANE     the binary (default target/release/corelane)
# KAFKA_LIBS   directory with the jars of Kafka 4.3.1: its tools, and the message definitions the raw client works from
# PYTHON       python with kafka-python 3 and confluent-kafka (default python3)
# TARGET       `kafka` runs the tests against Kafka itself, from KAFKA_LIBS, to see that the tests are right
# INTEROP_DIR  where data and logs go (default target/interop); those of failed tests are kept
set -u
: "${KAFKA_LIBS:?set KAFKA_LIBS to the directory with the jars of Kafka}"
export KAFKA_LIBS PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/harness.py" "$@"
