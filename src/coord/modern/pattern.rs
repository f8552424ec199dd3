//! Subscriptions by pattern. Kafka takes RE2's syntax, and so does the `regex` crate but for small things; both match in linear time.

use std::collections::BTreeSet;

use regex::bytes::{Regex, RegexBuilder};

use super::topics::Topics;

/// Longest pattern.
const PATTERN_MAX: usize = 4096;
/// Largest compiled pattern, bytes: to compile it takes less than a millisecond.
const COMPILED_MAX: usize = 256 << 10;

/// Names of all topics, internal ones too, that match a pattern as a whole. The error says what is wrong with the pattern.
pub fn resolve(pattern: &str, topics: &dyn Topics) -> Result<BTreeSet<String>, String> {
    let pattern = compile(pattern)?;
    Ok(topics.names().filter(|name| pattern.is_match(name.as_bytes())).map(str::to_owned).collect())
}

fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > PATTERN_MAX {
        return Err(format!("longer than {PATTERN_MAX} bytes"));
    }
    let build = |pattern: &str, unicode| RegexBuilder::new(pattern).unicode(unicode).size_limit(COMPILED_MAX).build();
    // By itself first: `a)|(b` must not come to something between our brackets.
    let whole = |unicode| build(pattern, unicode).and_then(|_| build(&format!(r"\A(?:{pattern})\z"), unicode));
    // Names of topics are ASCII, and `\w` is in RE2: with all letters of Unicode it takes fifty times as much.
    // Only what cannot be said without them (`\p{L}`) is compiled with them.
    match whole(false) {
        Err(regex::Error::Syntax(_)) => whole(true),
        result => result,
    }
    .map_err(|error| last_line(&error))
}

/// The reason; the lines above it show the place.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Uuid;
    use crate::coord::modern::testing::Cluster;

    #[test]
    fn whole_names_match() {
        let mut cluster = Cluster::default();
        for (number, name) in ["__consumer_offsets", "a", "ab", "orders-1", "orders-22"].into_iter().enumerate() {
            cluster.put(name, Uuid([number as u8 + 1; 16]), 1);
        }
        let matches = |pattern| resolve(pattern, &cluster).map(|names| names.into_iter().collect::<Vec<_>>());
        assert_eq!(matches("a|ab").unwrap(), ["a", "ab"]);
        assert_eq!(matches("a").unwrap(), ["a"]);
        assert_eq!(matches("orders-.*").unwrap(), ["orders-1", "orders-22"]);
        assert_eq!(matches(r"orders-\d").unwrap(), ["orders-1"]);
        assert_eq!(matches(".*").unwrap().len(), 5, "internal topics too");
        assert_eq!(matches("(?i)ORDERS-1").unwrap(), ["orders-1"]);
        assert!(matches("").unwrap().is_empty());
        // These are larger than is allowed where `\w` stands for the letters of all scripts.
        assert_eq!(matches(r"[\w.-]{1,249}").unwrap().len(), 5);
        assert_eq!(matches(r"(\w{1,60}-){1,4}\d+").unwrap(), ["orders-1", "orders-22"]);
        assert_eq!(matches(r"\p{L}+").unwrap(), ["a", "ab"]);
        assert_eq!(matches("ä|[äö]b|a").unwrap(), ["a"]);
    }

    #[test]
    fn bad_patterns() {
        let cluster = Cluster::default();
        for (pattern, reason) in [("(", "unclosed group"), ("a)|(b", "unopened group"), ("[", "unclosed character class")] {
            assert!(resolve(pattern, &cluster).unwrap_err().contains(reason), "{pattern}");
        }
        assert!(resolve(&"a".repeat(PATTERN_MAX + 1), &cluster).unwrap_err().contains("longer than"));
        assert!(resolve("(?:(?:a{1000}){1000}){1000}", &cluster).is_err(), "one that would take too much memory");
    }
}
