//! What was set, and where: gathered from file, environment and overrides, then read by type.

use std::collections::BTreeMap;
use std::path::Path;

use super::providers::Providers;
use super::table::{self, Key};
use super::{ConfigError, environment, properties};

/// All settings of a start, by name: the value, trimmed, and where it comes from.
pub struct Settings {
    values: BTreeMap<String, Given>,
    /// Variables of [`providers`] that have no value, each with its setting.
    without_value: Vec<(String, String)>,
}

/// What one setting was set to.
struct Given {
    value: String,
    origin: String,
}

impl Settings {
    /// Reads the three sources; of several values for one setting the last source wins.
    pub fn gather(file: Option<&Path>, env: impl Iterator<Item = (String, String)>, overrides: &[String]) -> Result<Settings, ConfigError> {
        let env: BTreeMap<String, String> = env.collect();
        let mut all = BTreeMap::new();
        let mut set = |key: &str, value: &str, origin: String| {
            all.insert(key.trim().to_owned(), Given { value: value.trim().to_owned(), origin });
        };
        if let Some(path) = file {
            let bad = |reason: String| ConfigError::File { path: path.to_owned(), reason };
            let content = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
            for (key, value) in properties::parse(&content).map_err(|error| bad(error.to_string()))? {
                set(&key, &value, path.display().to_string());
            }
        }
        for (variable, value) in &env {
            if let Some(key) = environment::setting(variable) {
                set(&key, value, format!("the environment variable {variable}"));
            }
        }
        for text in overrides {
            let (key, value) =
                text.split_once('=').filter(|(key, _)| !key.trim().is_empty()).ok_or_else(|| ConfigError::Override(text.clone()))?;
            set(key, value, "--override".to_owned());
        }
        Settings { values: all, without_value: Vec::new() }.with_values_of_providers(env)
    }

    fn with_values_of_providers(mut self, env: BTreeMap<String, String>) -> Result<Settings, ConfigError> {
        let get = |name: &str| self.text(name).map(str::to_owned);
        let providers = Providers::read(env, get).map_err(|failure| self.wrong(&failure.key, &failure.allowed))?;
        let mut failed = None;
        for (name, given) in &mut self.values {
            match providers.resolve(&given.value, &mut |variable| self.without_value.push((name.clone(), variable.to_owned()))) {
                Ok(Some(value)) => given.value = value.trim().to_owned(),
                Ok(None) => {}
                Err(allowed) => failed = Some((name.clone(), allowed)),
            }
        }
        failed.map_or(Ok(()), |(name, allowed)| Err(self.wrong(&name, &allowed)))?;
        Ok(self)
    }

    /// Variables in values that no provider has a value for: they stay as they were written.
    pub fn without_value(&self) -> &[(String, String)] {
        &self.without_value
    }

    /// Checks every value against the table, and that all of Corelane's own settings exist.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (name, Given { value, origin }) in &self.values {
            match table::find(name) {
                None if name.starts_with("corelane.") => return Err(ConfigError::UnknownKey { key: name.clone(), origin: origin.clone() }),
                // Set to nothing is not set, where there is a state of not being set.
                Some(key) if (!value.is_empty() || !key.default.is_empty()) && !key.kind.accepts(value) => {
                    return Err(self.wrong(name, &key.kind.allowed()));
                }
                _ => {}
            }
        }
        let roles = self.value("process.roles");
        if !roles.is_empty() && !roles.split(',').any(|role| role.trim() == "broker") {
            return Err(self.wrong("process.roles", "a list with broker in it: there are no nodes that are only controllers"));
        }
        Ok(())
    }

    /// Whether the setting has a value, be it empty.
    pub fn is_given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether the setting has a value that is not empty.
    pub fn is_set(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// What was set, unless it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|given| given.value.as_str()).filter(|value| !value.is_empty())
    }

    /// What was set, else the table's default.
    pub fn value(&self, name: &str) -> &str {
        self.text(name).unwrap_or_else(|| table::find(name).map_or("", |key: &Key| key.default))
    }

    /// A whole number that fits its type.
    pub fn number<T: TryFrom<i64>>(&self, name: &str) -> Result<T, ConfigError> {
        self.parsed(name, |value| value.parse::<i64>().ok().and_then(|number| T::try_from(number).ok()))
    }

    /// A whole number, brought between bounds that Kafka does not have.
    pub fn clamped<T: TryFrom<i64>>(&self, name: &str, low: i64, high: i64) -> Result<T, ConfigError> {
        let number = |value: &str| T::try_from(value.parse::<i64>().ok()?.clamp(low, high)).ok();
        self.parsed(name, number)
    }

    /// A number of bytes.
    pub fn size(&self, name: &str) -> Result<usize, ConfigError> {
        self.parsed(name, |value| table::parse_size(value).and_then(|bytes| usize::try_from(bytes).ok()))
    }

    /// True or false.
    pub fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        self.parsed(name, table::parse_bool)
    }

    /// Whatever `parse` makes of the value.
    pub fn parsed<T>(&self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, ConfigError> {
        parse(self.value(name)).ok_or_else(|| self.wrong(name, &table::find(name).map_or(String::new(), |key| key.kind.allowed())))
    }

    /// The error for a setting's value.
    pub fn wrong(&self, name: &str, allowed: &str) -> ConfigError {
        let given = self.values.get(name);
        let origin = given.map_or("the default", |given| &given.origin);
        let value = given.map_or_else(|| self.value(name), |given| &given.value);
        ConfigError::Value { key: name.to_owned(), value: value.to_owned(), origin: origin.to_owned(), allowed: allowed.to_owned() }
    }

    /// Everything that was set.
    pub fn raw(&self) -> BTreeMap<String, String> {
        self.values.iter().map(|(key, given)| (key.clone(), given.value.clone())).collect()
    }

    /// Settings without effect.
    pub fn unknown(&self) -> Vec<String> {
        let has_effect = |name: &String| table::find(name).is_some() || name.starts_with("config.providers");
        self.values.keys().filter(|name| !has_effect(name)).cloned().collect()
    }
}
