//! Which options of `topics` go together, in Kafka's words.

use super::super::tool::{Outcome, refuse_together, usage};
use super::Topics;

type Given = (bool, &'static str);

impl Topics {
    /// Refuses what makes no sense.
    pub(super) fn check(&self) -> Outcome {
        let [create, list, alter, describe, delete] = self.actions();
        let asked = [create, list, alter, describe, delete].iter().filter(|(given, _)| *given).count();
        if asked != 1 {
            return usage("Command must include exactly one action: --list, --describe, --create, --alter or --delete");
        }
        if self.delete_config.is_some() {
            eprintln!(
                "delete-config option is no longer supported and deprecated since version 4.0. The config will be fully removed in future releases."
            );
        }
        if self.connect.bootstrap_server.is_none() {
            return usage("--bootstrap-server must be specified");
        }
        if self.describe && self.if_exists && self.topic.is_none() && self.topic_id.is_none() {
            return usage("--topic or --topic-id is required to describe a topic");
        }
        if !self.list && !self.describe && self.topic.is_none() {
            return usage("Missing required argument \"[topic]\"");
        }
        if self.alter && !self.configs.is_empty() {
            return usage(
                "Option combination \"[[config], [bootstrap-server]]\" can't be used with option \"[alter]\" (To alter topic \
                 configurations, the kafka-configs tool can be used.)",
            );
        }
        if self.alter && self.partitions.is_none() {
            return usage("Missing required argument \"[partitions]\"");
        }
        refuse_together((!self.configs.is_empty(), "config"), &[list, describe, delete])?;
        refuse_together((self.partitions.is_some(), "partitions"), &[list, describe, delete])?;
        refuse_together((self.replication_factor.is_some(), "replication-factor"), &[alter, list, describe, delete])?;
        let assignment = (self.replica_assignment.is_some(), "replica-assignment");
        refuse_together(assignment, &[list, describe, delete])?;
        if self.create {
            let counts = [(self.partitions.is_some(), "partitions"), (self.replication_factor.is_some(), "replication-factor")];
            refuse_together(assignment, &counts)?;
        }
        self.check_describe()?;
        refuse_together((self.if_exists, "if-exists"), &[create, list])?;
        refuse_together((self.if_not_exists, "if-not-exists"), &[alter, list, describe, delete])?;
        refuse_together((self.exclude_internal, "exclude-internal"), &[create, alter, delete])
    }

    fn actions(&self) -> [Given; 5] {
        [(self.create, "create"), (self.list, "list"), (self.alter, "alter"), (self.describe, "describe"), (self.delete, "delete")]
    }

    /// What narrows a description down is for descriptions only, and only one of it at a time.
    fn check_describe(&self) -> Outcome {
        let [create, list, alter, _, delete] = self.actions();
        let overrides = (self.topics_with_overrides, "topics-with-overrides");
        let reports = [
            (self.under_replicated_partitions, "under-replicated-partitions"),
            (self.under_min_isr_partitions, "under-min-isr-partitions"),
            (self.at_min_isr_partitions, "at-min-isr-partitions"),
            (self.unavailable_partitions, "unavailable-partitions"),
        ];
        for report in reports {
            let others = reports.iter().copied().filter(|other| other.1 != report.1);
            let refused: Vec<Given> = [overrides, create, list, alter, delete].into_iter().chain(others).collect();
            refuse_together(report, &refused)?;
        }
        let refused: Vec<Given> = [create, list, alter, delete].into_iter().chain(reports).collect();
        refuse_together(overrides, &refused)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tool::Failure;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        topics: Topics,
    }

    fn refused(line: &str) -> String {
        let words = format!("topics --bootstrap-server h:1 {line}");
        match Line::try_parse_from(words.split(' ')).unwrap_or_else(|e| panic!("{e}")).topics.check() {
            Ok(()) => String::new(),
            Err(Failure::Usage(text)) => text,
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Texts as Kafka 4.3.1 gives them.
    #[test]
    fn kafkas_refusals() {
        let together = |a: &str, b: &str| format!("Option \"[{a}]\" can't be used with option \"[{b}]\"");
        assert!(refused("--list --create").starts_with("Command must include exactly one action"));
        assert_eq!(refused("--create"), "Missing required argument \"[topic]\"");
        assert_eq!(refused("--alter --topic t"), "Missing required argument \"[partitions]\"");
        assert_eq!(refused("--list --partitions 3"), together("partitions", "list"));
        assert_eq!(refused("--alter --topic t --partitions 3 --replication-factor 1"), together("replication-factor", "alter"));
        assert_eq!(refused("--create --topic t --partitions 3 --replica-assignment 1"), together("replica-assignment", "partitions"));
        assert_eq!(refused("--list --if-exists"), together("if-exists", "list"));
        assert_eq!(refused("--delete --topic t --exclude-internal"), together("exclude-internal", "delete"));
        let both = "--describe --unavailable-partitions --at-min-isr-partitions";
        assert_eq!(refused(both), together("at-min-isr-partitions", "unavailable-partitions"));
        for fine in ["--list", "--list --exclude-internal", "--describe --topics-with-overrides", "--delete --topic t --if-exists"] {
            assert_eq!(refused(fine), "", "{fine}");
        }
    }
}
