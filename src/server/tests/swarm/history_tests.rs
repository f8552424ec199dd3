//! The checker sees what it is there for.

use std::time::Duration;

use super::history::{Found, History, Mishap, Promise, Rules, key, value};
use crate::base::ids::{TopicId, Uuid};

const ID: TopicId = Uuid([7; 16]);

/// A topic with `n` records of one producer, acknowledged at their numbers.
fn history(n: usize, promise: Promise, rules: Rules) -> History {
    let mut history = History::default();
    history.created(ID, "t", 1, rules);
    for number in 0..n {
        history.partition(ID, 0).send(1, 0, Some(5), promise, 1000 + number as i64);
        history.partition(ID, 0).ack(number, number as i64).unwrap();
    }
    history
}

fn start(history: &mut History, start: i64, seconds: u64) -> Result<(), String> {
    let asked = history.partition(ID, 0).view();
    history.start(ID, 0, start, Duration::from_secs(seconds), &asked)
}

fn end(history: &mut History, end: i64) -> Result<(), String> {
    let asked = history.partition(ID, 0).view();
    history.end(ID, 0, end, &asked)
}

fn read(history: &mut History, numbers: &[usize]) -> Result<(), String> {
    let mut all = Vec::new();
    for number in numbers {
        let value = value(ID, 0, *number, 5);
        let found = Found { offset: *number as i64, key: Some(&key(0)), value: Some(&value), timestamp_ms: 1000 + *number as i64 };
        all.push((*number as i64, {
            let asked = history.partition(ID, 0).view();
            history.observe(ID, 0, &found, &asked)?
        }));
    }
    history.whole(ID, 0, &all, (0, numbers.last().map_or(0, |n| *n as i64 + 1)), true)
}

#[test]
fn a_lost_record_is_found_unless_its_promise_was_less() {
    assert!(read(&mut history(3, Promise::Flushed, Rules::default()), &[0, 1, 2]).is_ok());
    assert!(read(&mut history(3, Promise::Flushed, Rules::default()), &[0, 2]).unwrap_err().contains("lost"));
    for (promise, mishap, may) in [
        (Promise::Flushed, Mishap::PowerLoss, false),
        (Promise::Written, Mishap::PowerLoss, true),
        (Promise::Written, Mishap::ProcessEnds, false),
        (Promise::Flushed, Mishap::Damage, true),
    ] {
        let mut history = history(3, promise, Rules::default());
        history.process_ends(mishap, false, Duration::ZERO);
        assert_eq!(read(&mut history, &[0, 1]).is_ok(), may, "{promise:?} {mishap:?}");
    }
}

/// Behind a failed flush nothing is acknowledged; only the next process takes for durable what is not.
#[test]
fn a_failed_flush_excuses_losses_after_the_next_process_only() {
    for (ends, may) in [(&[Mishap::PowerLoss][..], false), (&[Mishap::ProcessEnds, Mishap::PowerLoss], true)] {
        let mut history = history(3, Promise::Flushed, Rules::default());
        history.failed_flush("t", 0);
        ends.iter().for_each(|mishap| history.process_ends(*mishap, false, Duration::ZERO));
        assert_eq!(read(&mut history, &[0, 1]).is_ok(), may, "{ends:?}");
    }
}

#[test]
fn a_flush_covers_what_was_written_before() {
    for (promise, may) in [(Promise::Flushed, false), (Promise::Written, true)] {
        let mut history = history(2, Promise::Written, Rules::default());
        history.partition(ID, 0).send(1, 0, Some(5), promise, 1002);
        history.partition(ID, 0).ack(2, 2).unwrap();
        history.process_ends(Mishap::PowerLoss, false, Duration::ZERO);
        assert_eq!(read(&mut history, &[0, 2]).is_ok(), may, "{promise:?}");
    }
}

#[test]
fn a_record_elsewhere_twice_or_unknown_is_found() {
    let mut known = history(3, Promise::Flushed, Rules::default());
    let (bytes, name) = (value(ID, 0, 1, 5), key(0));
    let mut observe = |offset, value: &[u8]| {
        let found = Found { offset, key: Some(&name), value: Some(value), timestamp_ms: 1001 };
        let asked = known.partition(ID, 0).view();
        known.observe(ID, 0, &found, &asked)
    };
    assert!(observe(2, &bytes).unwrap_err().contains("acknowledged at 1"));
    for other in [value(ID, 1, 1, 5), value(Uuid([8; 16]), 0, 1, 5), value(ID, 0, 9, 5), value(ID, 0, 1, 6)] {
        assert!(observe(1, &other).is_err());
    }
    assert!(known.whole(ID, 0, &[(0, 0), (1, 1), (2, 1)], (0, 3), true).unwrap_err().contains("twice"));
    assert!(known.whole(ID, 0, &[(0, 1), (1, 0)], (0, 3), true).unwrap_err().contains("behind"));
}

#[test]
fn starts_move_only_as_far_as_something_allows_and_never_back() {
    let mut known = history(3, Promise::Flushed, Rules::default());
    assert!(start(&mut known, 1, 0).is_err());
    known.delete_records(ID, 0, 2);
    start(&mut known, 2, 5).unwrap();
    assert!(start(&mut known, 1, 0).unwrap_err().contains("back"));
    let bytes = value(ID, 0, 1, 5);
    let back = Found { offset: 1, key: Some(&key(0)), value: Some(&bytes), timestamp_ms: 1001 };
    let asked = known.partition(ID, 0).view();
    assert!(known.observe(ID, 0, &back, &asked).unwrap_err().contains("back"));
    // Not on the disk yet when the process was killed.
    known.process_ends(Mishap::ProcessEnds, false, Duration::from_secs(4));
    start(&mut known, 0, 9).unwrap();
    // Answered, so it is on the disk.
    let asked = known.partition(ID, 0).view();
    known.records_deleted(ID, 0, 2, &asked);
    known.process_ends(Mishap::PowerLoss, false, Duration::ZERO);
    assert!(start(&mut known, 1, 9).unwrap_err().contains("back"));
    let mut known = history(3, Promise::Flushed, Rules { retention_ms: Some(100), ..Rules::default() });
    known.latest_ms = 1101;
    start(&mut known, 1, 0).unwrap();
    assert!(start(&mut known, 2, 0).is_err());
}

#[test]
fn what_compaction_may_take_holds_no_segment_back() {
    for (compact, may) in [(false, false), (true, true)] {
        let mut known = history(3, Promise::Flushed, Rules { compact, retention_ms: Some(100), ..Rules::default() });
        known.latest_ms = 1101;
        assert_eq!(start(&mut known, 2, 0).is_ok(), may);
        assert!(start(&mut known, 3, 0).is_err());
    }
}

/// The wall clock was set back behind them: what the size has taken is no reason to keep older records.
#[test]
fn young_records_that_went_by_size_hold_no_segment_back() {
    for (bytes, may) in [(None, false), (Some(1), true)] {
        let rules = Rules { retention_ms: Some(100), retention_bytes: bytes, ..Rules::default() };
        let mut known = history(1, Promise::Flushed, rules);
        known.partition(ID, 0).send(1, 0, Some(5), Promise::Flushed, 500);
        known.partition(ID, 0).ack(1, 1).unwrap();
        known.latest_ms = 1050;
        assert_eq!(start(&mut known, 2, 0).is_ok(), may);
    }
}

#[test]
fn compaction_keeps_the_last_value_of_each_key() {
    let rules = Rules { compact: true, ..Rules::default() };
    assert!(read(&mut history(3, Promise::Flushed, rules.clone()), &[2]).is_ok());
    assert!(read(&mut history(3, Promise::Flushed, rules), &[0, 1]).is_err());
}

#[test]
fn an_end_never_goes_back_below_what_was_acknowledged() {
    let mut known = history(3, Promise::Flushed, Rules::default());
    assert!(end(&mut known, 2).is_err());
    end(&mut known, 5).unwrap();
    known.process_ends(Mishap::PowerLoss, false, Duration::ZERO);
    end(&mut known, 3).unwrap();
    assert!(end(&mut known, 2).is_err());
}
