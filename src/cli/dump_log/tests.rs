//! Of the formatting, on files made here; tests/interop/test_dump.py compares with the tool of Kafka.
