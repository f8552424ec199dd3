//! Values that stand elsewhere: `${env:NAME}`, `${file:PATH:KEY}` and `${dir:PATH:FILE}`, with
//! `config.providers` (KIP-297, KIP-421, KIP-887).
//!
//! A provider has any name; its class decides what it reads. What a provider does not have stays as
//! it was written, as in Kafka, and is told.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use regex::Regex;

use super::listeners::list;
use super::properties;

const PROVIDERS: &str = "config.providers";
const CLASSES: &str = "org.apache.kafka.common.config.provider.";

/// Where values come from.
enum Provider {
    /// Environment variables, those whose names match.
    Env(Option<Regex>),
    /// Keys of properties files.
    File(Allowed),
    /// Files of directories, each a value.
    Directory(Allowed),
}

/// Directories and files that may be read; none: all.
struct Allowed(Vec<PathBuf>);

/// Why there are no providers.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The setting that is wrong.
    pub key: String,
    /// What it may be.
    pub allowed: String,
}

/// The providers of a configuration.
pub struct Providers {
    env: BTreeMap<String, String>,
    by_name: BTreeMap<String, Provider>,
    variable: Regex,
}

impl Providers {
    /// Those that the settings name; `get` is a setting's value, `env` the environment.
    pub fn read(env: BTreeMap<String, String>, get: impl Fn(&str) -> Option<String>) -> Result<Providers, Failure> {
        let variable = Regex::new(r"\$\{([^}]*?):(?:([^}]*?):)?([^}]*?)\}").expect("a constant");
        let mut by_name = BTreeMap::new();
        for name in list(&get(PROVIDERS).unwrap_or_default()) {
            let key = format!("{PROVIDERS}.{name}.class");
            let class = get(&key).unwrap_or_default();
            let parameter = |what: &str| get(&format!("{PROVIDERS}.{name}.param.{what}"));
            let allowed = || {
                let paths = parameter("allowed.paths").unwrap_or_default();
                Allowed(list(&paths).map(PathBuf::from).collect())
            };
            let provider = match class.strip_prefix(CLASSES) {
                Some("EnvVarConfigProvider") => Provider::Env(pattern(name, parameter("allowlist.pattern"))?),
                Some("FileConfigProvider") => Provider::File(allowed()),
                Some("DirectoryConfigProvider") => Provider::Directory(allowed()),
                _ => {
                    let allowed = format!(
                        "{CLASSES} with EnvVarConfigProvider, FileConfigProvider or DirectoryConfigProvider: Java classes are not loaded"
                    );
                    return Err(Failure { key, allowed });
                }
            };
            by_name.insert(name.to_owned(), provider);
        }
        Ok(Providers { env, by_name, variable })
    }

    /// A value with its variables replaced, `None` if it has none of these providers; the error says
    /// what the value may be. `without` hears of variables that have no value.
    pub fn resolve(&self, value: &str, without: &mut impl FnMut(&str)) -> Result<Option<String>, String> {
        let (mut replaced, mut done) = (String::new(), 0);
        for found in self.variable.captures_iter(value) {
            let (whole, part) = (found.get(0).expect("the match"), |n| found.get(n).map_or("", |part| part.as_str()));
            let Some(provider) = self.by_name.get(part(1)) else { continue };
            let text = provider.read(&self.env, part(2), part(3))?;
            if text.is_none() {
                without(whole.as_str());
            }
            replaced.push_str(&value[done..whole.start()]);
            replaced.push_str(text.as_deref().unwrap_or(whole.as_str()));
            done = whole.end();
        }
        replaced.push_str(&value[done..]);
        Ok((done > 0).then_some(replaced))
    }
}

fn pattern(name: &str, text: Option<String>) -> Result<Option<Regex>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let key = format!("{PROVIDERS}.{name}.param.allowlist.pattern");
    let whole = Regex::new(&format!("^(?:{text})$"));
    whole.map(Some).map_err(|error| Failure { key, allowed: format!("a regular expression: {error}") })
}

impl Provider {
    /// The value of `key` at `path`; the error says what is wrong.
    fn read(&self, env: &BTreeMap<String, String>, path: &str, key: &str) -> Result<Option<String>, String> {
        let cannot_read = |path: &Path, error: &dyn std::fmt::Display| format!("readable: {}: {error}", path.display());
        match self {
            Provider::Env(_) if !path.is_empty() => Err("without a path: environment variables have none".to_owned()),
            Provider::Env(pattern) => {
                let allowed = pattern.as_ref().is_none_or(|pattern| pattern.is_match(key));
                Ok(env.get(key).filter(|_| allowed).cloned())
            }
            Provider::File(allowed) => {
                let Some(path) = allowed.path(path) else { return Ok(None) };
                let content = std::fs::read(&path).map_err(|error| cannot_read(&path, &error))?;
                let pairs = properties::parse(&content).map_err(|error| cannot_read(&path, &error))?;
                Ok(pairs.into_iter().rev().find(|(name, _)| name == key).map(|(_, value)| value))
            }
            Provider::Directory(allowed) => {
                // A name, not a way out of the directory.
                let is_name = Path::new(key).components().eq([Component::Normal(key.as_ref())]);
                let Some(path) = allowed.path(path).filter(|_| is_name).map(|dir| dir.join(key)) else { return Ok(None) };
                if !path.is_file() {
                    return Ok(None);
                }
                std::fs::read_to_string(&path).map(Some).map_err(|error| cannot_read(&path, &error))
            }
        }
    }
}

impl Allowed {
    /// A path that may be read.
    fn path(&self, text: &str) -> Option<PathBuf> {
        let path = Path::new(text);
        let climbs = path.components().any(|part| part == Component::ParentDir);
        let inside = self.0.is_empty() || !climbs && self.0.iter().any(|allowed| path.starts_with(allowed));
        (!text.is_empty() && inside).then(|| path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn providers(settings: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Providers, Failure> {
        let map =
            |pairs: &[(&str, &str)]| -> BTreeMap<String, String> { pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() };
        let settings = map(settings);
        Providers::read(map(env), |name| settings.get(name).cloned())
    }

    fn class(name: &str) -> String {
        format!("{CLASSES}{name}")
    }

    #[test]
    fn variables_of_the_environment() {
        let env = [("DIR", "/data"), ("SECRET", "x"), ("EMPTY", "")];
        let class = class("EnvVarConfigProvider");
        let given = [
            ("config.providers", "env, e2"),
            ("config.providers.env.class", class.as_str()),
            ("config.providers.e2.class", class.as_str()),
            ("config.providers.e2.param.allowlist.pattern", "D.*"),
        ];
        let providers = providers(&given, &env).unwrap();
        for (value, expected, missing) in [
            ("/plain", None, ""),
            ("${env:DIR}/a,${e2:DIR}/b", Some("/data/a,/data/b"), ""),
            ("x${env:EMPTY}y", Some("xy"), ""),
            ("${env:NONE}/a", Some("${env:NONE}/a"), "${env:NONE}"),
            ("${e2:SECRET}", Some("${e2:SECRET}"), "${e2:SECRET}"),
            ("${other:DIR} $env:DIR} ${env:DIR", None, ""),
            ("${other:DIR}${env::DIR}", Some("${other:DIR}/data"), ""),
        ] {
            let mut without = Vec::new();
            let resolved = providers.resolve(value, &mut |variable| without.push(variable.to_owned())).unwrap();
            assert_eq!((resolved.as_deref(), without.join(" ").as_str()), (expected, missing), "{value}");
        }
        assert!(providers.resolve("${env:path:DIR}", &mut |_| ()).unwrap_err().contains("without a path"));
    }

    #[test]
    fn files_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let (secrets, path) = (dir.path().join("s.properties"), dir.path().display().to_string());
        std::fs::write(&secrets, "a=1\na = 2\n").unwrap();
        std::fs::write(dir.path().join("word"), "from a file\n").unwrap();
        let (file, directory) = (class("FileConfigProvider"), class("DirectoryConfigProvider"));
        let given = [
            ("config.providers", "file,dir,away"),
            ("config.providers.file.class", file.as_str()),
            ("config.providers.dir.class", directory.as_str()),
            ("config.providers.away.class", directory.as_str()),
            ("config.providers.away.param.allowed.paths", "/no,/such"),
        ];
        let providers = providers(&given, &[]).unwrap();
        let resolve = |value: String| providers.resolve(&value, &mut |_| ());
        assert_eq!(resolve(format!("<${{file:{path}/s.properties:a}}>")).unwrap().unwrap(), "<2>");
        assert_eq!(resolve(format!("${{dir:{path}:word}}")).unwrap().unwrap(), "from a file\n");
        for left in [format!("${{file:{path}/s.properties:b}}"), format!("${{dir:{path}/x:../word}}"), format!("${{away:{path}:word}}")] {
            assert_eq!(resolve(left.clone()).unwrap(), Some(left));
        }
        assert!(resolve(format!("${{file:{path}/none:a}}")).unwrap_err().contains("No such file"));
    }

    #[test]
    fn classes_of_others_are_refused() {
        let refused =
            providers(&[("config.providers", "vault"), ("config.providers.vault.class", "org.example.Vault")], &[]).err().unwrap();
        assert_eq!(refused.key, "config.providers.vault.class");
        let none = providers(&[("config.providers", "env")], &[]).err().unwrap();
        assert_eq!(none.key, "config.providers.env.class");
    }
}
