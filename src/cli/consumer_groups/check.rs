//! Which options of `consumer-groups` go together, in Kafka's words.

use super::super::tool::{Outcome, refuse_together, usage};
use super::ConsumerGroups;

/// What the refusals of resets without a target list.
const SCENARIOS: &str = "[[shift-by], [from-file], [to-datetime], [by-duration], [to-latest], [to-current], [to-earliest], [to-offset]]";

impl ConsumerGroups {
    /// Refuses what makes no sense, and warns of a reset that changes nothing.
    pub(super) fn check(&self) -> Outcome {
        let actions = [self.list, self.describe, self.delete, self.reset_offsets, self.delete_offsets];
        if actions.iter().filter(|given| **given).count() != 1 {
            return usage(
                "Command must include exactly one action: --list, --describe, --delete, --reset-offsets, --delete-offsets, --validate-regex",
            );
        }
        if self.connect.bootstrap_server.is_none() {
            return usage("Missing required argument \"[bootstrap-server]\"");
        }
        let no_group = self.groups.is_empty() && !self.all_groups;
        let needs_group = |action: &str| usage(format!("Option [{action}] takes one of these options: [all-groups], [group]"));
        if self.describe {
            if no_group {
                return needs_group("describe");
            }
            if [self.members, self.offsets, self.state.is_some()].iter().filter(|given| **given).count() > 1 {
                return usage("Option [describe] takes at most one of these options: [members], [offsets], [state]");
            }
            if self.state.as_deref().is_some_and(|state| !state.is_empty()) {
                return usage("Option [describe] does not take a value for [state]");
            }
        } else if self.members || self.offsets || (self.verbose && !self.list) {
            return usage("Options [members], [offsets] and [verbose] can only be used with option [describe]");
        }
        if self.delete && no_group {
            return needs_group("delete");
        }
        if self.delete && !self.topics.is_empty() {
            return usage("The consumer does not support topic-specific offset deletion from a consumer group.");
        }
        if self.delete_offsets && (self.groups.is_empty() || self.topics.is_empty()) {
            return usage("Option [delete-offsets] takes the following options: [topic], [group]");
        }
        if self.reset_offsets {
            self.check_reset(no_group)?;
        }
        refuse_together((!self.groups.is_empty(), "group"), &[(self.all_groups, "all-groups"), (self.list, "list")])?;
        refuse_together((!self.topics.is_empty(), "topic"), &[(self.list, "list"), (self.describe, "describe")])
    }

    fn check_reset(&self, no_group: bool) -> Outcome {
        if self.dry_run && self.execute {
            return usage("Option [reset-offsets] only accepts one of [execute] and [dry-run]");
        }
        if !self.dry_run && !self.execute {
            eprintln!(
                "WARN: No action will be performed as the --execute option is missing. In version 5.0, this command will require either \
                 --dry-run or --execute to be specified. You should add the --dry-run option explicitly if you are scripting this command and \
                 want to keep the current default behavior without prompting."
            );
        }
        if no_group {
            return usage("Option [reset-offsets] takes one of these options: [all-groups], [group]");
        }
        let scenarios = [
            (self.to_offset.is_some(), "to-offset"),
            (self.to_datetime.is_some(), "to-datetime"),
            (self.by_duration.is_some(), "by-duration"),
            (self.to_earliest, "to-earliest"),
            (self.to_latest, "to-latest"),
            (self.to_current, "to-current"),
            (self.shift_by.is_some(), "shift-by"),
            (self.from_file.is_some(), "from-file"),
        ];
        for scenario in scenarios {
            let others: Vec<_> = scenarios.iter().copied().filter(|other| other.1 != scenario.1).collect();
            refuse_together(scenario, &others)?;
        }
        if self.topics.is_empty() && !self.all_topics && self.from_file.is_none() {
            return usage("One of the reset scopes should be defined: --all-topics, --topic.");
        }
        if scenarios.iter().all(|(given, _)| !given) {
            return usage(format!("Option '[reset-offsets]' requires one of the following scenarios: {SCENARIOS}"));
        }
        Ok(())
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
        tool: ConsumerGroups,
    }

    fn refused(line: &str) -> String {
        let words = format!("groups --bootstrap-server h:1 {line}");
        match Line::try_parse_from(words.split(' ')).unwrap_or_else(|e| panic!("{e}")).tool.check() {
            Ok(()) => String::new(),
            Err(Failure::Usage(text)) => text,
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Texts as Kafka 4.3.1 gives them.
    #[test]
    fn kafkas_refusals() {
        assert_eq!(refused("--describe"), "Option [describe] takes one of these options: [all-groups], [group]");
        assert_eq!(refused("--describe --group g --state x"), "Option [describe] does not take a value for [state]");
        let most = "Option [describe] takes at most one of these options: [members], [offsets], [state]";
        assert_eq!(refused("--describe --group g --state --members"), most);
        assert_eq!(refused("--delete-offsets --group g"), "Option [delete-offsets] takes the following options: [topic], [group]");
        assert_eq!(
            refused("--reset-offsets --group g --to-earliest --dry-run"),
            "One of the reset scopes should be defined: --all-topics, --topic."
        );
        let scenario = "--reset-offsets --group g --topic t --dry-run";
        assert!(refused(scenario).starts_with("Option '[reset-offsets]' requires one of the following scenarios: "));
        assert_eq!(
            refused(&format!("{scenario} --to-earliest --shift-by -3")),
            "Option \"[to-earliest]\" can't be used with option \"[shift-by]\""
        );
        assert_eq!(refused("--describe --group g --all-groups"), "Option \"[group]\" can't be used with option \"[all-groups]\"");
        let both = format!("{scenario} --execute --to-latest");
        assert_eq!(refused(&both), "Option [reset-offsets] only accepts one of [execute] and [dry-run]");
        for fine in [
            "--list --state",
            "--list --state stable,empty --type",
            "--describe --all-groups --members --verbose",
            "--reset-offsets --group g --from-file f --dry-run",
            "--delete --group a --group b",
        ] {
            assert_eq!(refused(fine), "", "{fine}");
        }
    }
}
