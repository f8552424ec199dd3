//! `listeners`, `advertised.listeners` and the security protocol of each.

use std::net::ToSocketAddrs;

/// One address that clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name, in upper case as Kafka normalises it; usually `PLAINTEXT`.
    pub name: String,
    /// Host name or address, IPv6 without brackets. To bind: `0.0.0.0` for all interfaces.
    pub host: String,
    /// Port; 0 = any free one, and for an advertised listener the port that was bound.
    pub port: u16,
}

/// HOST:PORT, with brackets around an IPv6 address.
pub fn host_port(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
const FORM: &str = "a comma-separated list of NAME://HOST:PORT with ports from 0 to 65535";

/// The entries of a comma-separated list, trimmed, without empty ones.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Parses a list of listeners; names and (but for port 0) addresses must differ.
pub fn parse(value: &str) -> Result<Vec<Listener>, String> {
    let listeners: Vec<Listener> = list(value).map(|text| parse_one(text).ok_or_else(|| FORM.to_owned())).collect::<Result<_, _>>()?;
    if listeners.is_empty() {
        return Err(FORM.to_owned());
    }
    for (at, listener) in listeners.iter().enumerate() {
        if listeners[..at].iter().any(|other| other.name == listener.name) {
            return Err(format!("a list in which each listener has a name of its own ({} is there twice)", listener.name));
        }
    }
    Ok(listeners)
}

fn parse_one(text: &str) -> Option<Listener> {
    let (name, address) = text.split_once("://")?;
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') || bare.is_some() && matches!(c, ':' | '%');
    let host = bare.unwrap_or(host);
    let name_fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    (name_fits && host.chars().all(fits)).then_some(())?;
    Some(Listener { name: name.to_ascii_uppercase(), host: host.to_owned(), port: port.parse().ok()? })
}

/// Two listeners that would bind the same address, in words.
pub fn clash(listeners: &[Listener]) -> Option<String> {
    let wild = |host: &str| host.is_empty() || host == "0.0.0.0" || host == "::";
    for (at, one) in listeners.iter().enumerate().filter(|(_, listener)| listener.port != 0) {
        let same = |other: &&Listener| other.port == one.port && (other.host == one.host || wild(&other.host) || wild(&one.host));
        if let Some(other) = listeners[..at].iter().find(same) {
            return Some(format!("a list in which each listener has an address of its own ({} and {} share one)", other.name, one.name));
        }
    }
    None
}

/// The protocol of a listener name: from the map, else the name itself where it is a protocol.
pub fn protocol(name: &str, map: &[(String, String)]) -> Option<String> {
    let mapped = map.iter().find(|(listener, _)| listener == name).map(|(_, protocol)| protocol.clone());
    mapped.or_else(|| PROTOCOLS.contains(&name).then(|| name.to_owned()))
}

/// Parses `listener.security.protocol.map`.
pub fn parse_map(value: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |text: &str| {
        let (name, protocol) = text.split_once(':')?;
        let protocol = protocol.trim().to_ascii_uppercase();
        PROTOCOLS.contains(&protocol.as_str()).then(|| (name.trim().to_ascii_uppercase(), protocol))
    };
    let wrong = || format!("a comma-separated list of NAME:PROTOCOL, each protocol one of {}", PROTOCOLS.join(", "));
    list(value).map(|text| pair(text).ok_or_else(wrong)).collect()
}

/// What clients are told when nothing is set: the listener itself, or for all interfaces this machine's name if it resolves.
pub fn advertise(listener: &Listener) -> Listener {
    let host = match listener.host.as_str() {
        "0.0.0.0" | "::" | "" => host_name().unwrap_or_else(|| "localhost".to_owned()),
        host => host.to_owned(),
    };
    Listener { host, ..listener.clone() }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned();
    // A name that does not resolve here will hardly do so at a client.
    let resolves = !name.is_empty() && (name.as_str(), 0).to_socket_addrs().is_ok_and(|mut addresses| addresses.next().is_some());
    resolves.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, host: &str, port: u16) -> Listener {
        Listener { name: name.to_owned(), host: host.to_owned(), port }
    }

    #[test]
    fn addresses_of_ipv6_have_brackets() {
        assert_eq!([host_port("::1", 1), host_port("h", 2)], ["[::1]:1", "h:2"]);
    }

    #[test]
    fn forms() {
        assert_eq!(
            parse("PLAINTEXT://:9092, controller://127.0.0.1:9093").unwrap(),
            [listener("PLAINTEXT", "", 9092), listener("CONTROLLER", "127.0.0.1", 9093)]
        );
        assert_eq!(parse("A://[::1]:0").unwrap(), [listener("A", "::1", 0)]);
        assert_eq!(parse("OWN_NAME-1://kafka-0.svc:65535").unwrap(), [listener("OWN_NAME-1", "kafka-0.svc", 65535)]);
        for bad in [
            "",
            "PLAINTEXT",
            "localhost:9092",
            "A://h:65536",
            "A://h:-1",
            "A://h",
            "A://h:",
            "://h:1",
            "A://h h:1",
            "A://::1:9092",
            "A://a:1,A://b:2",
            "A://h:1/x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clashes() {
        assert!(clash(&parse("A://:9092,B://127.0.0.1:9092").unwrap()).is_some());
        assert!(clash(&parse("A://127.0.0.2:9092,B://127.0.0.1:9092").unwrap()).is_none());
        assert!(clash(&parse("A://:0,B://:0").unwrap()).is_none());
    }

    #[test]
    fn protocols() {
        let map = parse_map("own:PLAINTEXT, TLS:ssl").unwrap();
        assert_eq!(protocol("OWN", &map).as_deref(), Some("PLAINTEXT"));
        assert_eq!(protocol("TLS", &map).as_deref(), Some("SSL"));
        assert_eq!(protocol("SASL_SSL", &map).as_deref(), Some("SASL_SSL"));
        assert_eq!(protocol("OTHER", &map), None);
        assert!(parse_map("A:HTTP").is_err() && parse_map("A").is_err());
    }

    #[test]
    fn advertised_by_default() {
        let known = listener("A", "example.org", 1);
        assert_eq!(advertise(&known), known);
        let all = advertise(&listener("A", "0.0.0.0", 1));
        assert!(!all.host.is_empty() && all.host != "0.0.0.0");
    }
}
