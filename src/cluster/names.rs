//! Which topic names are allowed, in Kafka's words.

use crate::base::limits::TOPIC_NAME_MAX;

/// The topic names that Kafka keeps for itself and shows to clients.
pub const INTERNAL: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];

/// Kafka's name for its own metadata log; never a topic of clients.
pub const CLUSTER_METADATA: &str = "__cluster_metadata";

/// Names that begin so are the broker's own; never topics of clients.
const OWN: &str = "__corelane";

/// Topic name of the broker's metadata log; it has one partition.
pub const METADATA: &str = "__corelane_metadata";

/// True for a name that is the broker's own. A topic may have one from before such were reserved.
pub fn is_own(name: &str) -> bool {
    name.starts_with(OWN)
}

/// True for a topic that the broker itself writes (`is_internal` of Metadata).
pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// Whether a topic may have this name; the error is Kafka's text, but for the names that Corelane reserves.
pub fn validate(name: &str) -> Result<(), String> {
    let reason = match name {
        "" => "the empty string is not allowed".to_owned(),
        "." | ".." => format!("'{name}' is not allowed"),
        // Kafka counts UTF-16 units; any name that is not ASCII is refused anyway.
        _ if name.chars().count() > TOPIC_NAME_MAX => {
            format!("the length of '{name}' is longer than the max allowed length {TOPIC_NAME_MAX}")
        }
        _ if !name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-')) => {
            format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
        }
        _ if is_own(name) => format!("'{name}' begins with '{OWN}', which is reserved for the broker"),
        _ => return Ok(()),
    };
    Err(format!("Topic name is invalid: {reason}"))
}

/// The same for all names that differ only in '.' against '_': Kafka's metrics could not tell such topics apart.
pub fn folded(name: &str) -> String {
    name.replace('.', "_")
}

/// Whether another name can have the same [`folded`] form.
pub fn can_collide(name: &str) -> bool {
    name.contains(['.', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_rules_and_texts() {
        assert_eq!(validate("a.b_c-D9"), Ok(()));
        assert_eq!(validate(&"x".repeat(249)), Ok(()));
        assert_eq!(validate("").unwrap_err(), "Topic name is invalid: the empty string is not allowed");
        assert_eq!(validate("..").unwrap_err(), "Topic name is invalid: '..' is not allowed");
        let long = "x".repeat(250);
        let text = format!("Topic name is invalid: the length of '{long}' is longer than the max allowed length 249");
        assert_eq!(validate(&long).unwrap_err(), text);
        for own in [METADATA, OWN, "__corelane.x"] {
            assert!(validate(own).unwrap_err().ends_with("is reserved for the broker"), "{own}");
        }
        assert_eq!(validate("_corelane"), Ok(()));
        for bad in ["a b", "é", "a/b", "a\0"] {
            assert!(validate(bad).unwrap_err().ends_with("other than ASCII alphanumerics, '.', '_' and '-'"), "{bad}");
        }
    }

    #[test]
    fn collisions() {
        assert!(folded("a.b") == folded("a_b") && folded("a_b.c") == folded("a.b_c"));
        assert!(folded("a.b") != folded("a-b") && folded("a.b") != folded("a.bc"));
        assert!(can_collide("a.b") && can_collide("_") && !can_collide("a-b"));
    }
}
