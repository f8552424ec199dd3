//! `KAFKA_*` environment names, as Kafka's official container image maps them to settings.

/// Beginnings of names that belong to Kafka's start scripts, to its image or to Kubernetes' service variables rather than to the broker.
const NOT_SETTINGS: &[&str] = &[
    "KAFKA_CLASSPATH",
    "KAFKA_DEBUG",
    "KAFKA_GC",
    "KAFKA_HEAP_OPTS",
    "KAFKA_HOME",
    "KAFKA_JMX",
    "KAFKA_JVM",
    "KAFKA_LOG4J",
    "KAFKA_OPTS",
    "KAFKA_PORT",
    "KAFKA_SCALA_VERSION",
    "KAFKA_SERVICE",
    "KAFKA_TOOLS",
    "KAFKA_VERSION",
];

/// The setting that an environment variable stands for: `KAFKA_LOG_DIRS` is `log.dirs`; `_` is a dot, `__` an underscore, `___` a dash.
/// `KAFKA_CFG_LOG_DIRS` is the same: another widely used image names them so. The names that both
/// have for the id that their format step takes are `corelane.cluster.id`.
pub fn setting(variable: &str) -> Option<String> {
    if matches!(variable, "CLUSTER_ID" | "KAFKA_KRAFT_CLUSTER_ID") {
        return Some("corelane.cluster.id".to_owned());
    }
    let name = variable.strip_prefix("KAFKA_")?;
    let name = name.strip_prefix("CFG_").unwrap_or(name);
    if name.is_empty() || NOT_SETTINGS.iter().any(|prefix| variable.starts_with(prefix)) {
        return None;
    }
    // The longest runs first; the stand-ins cannot occur in an environment name's mapped form.
    Some(name.to_lowercase().replace("___", "-").replace("__", "\0").replace('_', ".").replace('\0', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_as_the_image_does() {
        for (variable, key) in [
            ("KAFKA_LOG_DIRS", "log.dirs"),
            ("KAFKA_NODE_ID", "node.id"),
            ("KAFKA_A__B", "a_b"),
            ("KAFKA_A___B_C", "a-b.c"),
            ("KAFKA_CORELANE_MEMORY", "corelane.memory"),
            ("CLUSTER_ID", "corelane.cluster.id"),
            ("KAFKA_KRAFT_CLUSTER_ID", "corelane.cluster.id"),
            ("KAFKA_CFG_LOG_DIRS", "log.dirs"),
            ("KAFKA_CFG_A__B", "a_b"),
            ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "listener.security.protocol.map"),
        ] {
            assert_eq!(setting(variable).as_deref(), Some(key), "{variable}");
        }
    }

    #[test]
    fn leaves_alone_what_is_no_setting() {
        for variable in [
            "PATH",
            "KAFKA_",
            "KAFKA_CFG_",
            "KAFKA_HEAP_OPTS",
            "KAFKA_JVM_PERFORMANCE_OPTS",
            "KAFKA_OPTS",
            "KAFKA_LOG4J_OPTS",
            "KAFKA_LOG4J2_ROOT_LOGLEVEL",
            "KAFKA_LOG4J_ROOT_LOGLEVEL",
            "KAFKA_GC_LOG_OPTS",
            "KAFKA_JMX_PORT",
            "KAFKA_PORT",
            "KAFKA_PORT_9092_TCP_ADDR",
            "KAFKA_SERVICE_HOST",
        ] {
            assert_eq!(setting(variable), None, "{variable}");
        }
    }
}
