//! How a line becomes a record: headers, key and value with Kafka's separators. Pure.

use std::collections::BTreeMap;

use regex::bytes::Regex;

use super::super::tool::flag;
use crate::wire::batch::NewRecord;

/// Key and value of each header.
type Headers = Vec<(String, Option<Vec<u8>>)>;

/// Turns lines into records.
#[derive(Debug)]
pub struct LineReader {
    parse_key: bool,
    parse_headers: bool,
    ignore_error: bool,
    key_separator: String,
    headers_delimiter: String,
    headers_separator: Regex,
    headers_key_separator: String,
    null_marker: Option<String>,
    line_number: u64,
}

impl LineReader {
    /// A reader with these properties; others do not count.
    pub fn new(properties: &BTreeMap<String, String>) -> Result<LineReader, String> {
        let text = |name: &str, default: &str| properties.get(name).cloned().unwrap_or_else(|| default.to_owned());
        let key_separator = text("key.separator", "\t");
        let headers_delimiter = text("headers.delimiter", "\t");
        let headers_separator = text("headers.separator", ",");
        let headers_key_separator = text("headers.key.separator", ":");
        let null_marker = properties.get("null.marker").cloned();
        let mut differ = vec![
            ("headers.delimiter", &headers_delimiter, "headers.separator", &headers_separator),
            ("headers.delimiter", &headers_delimiter, "headers.key.separator", &headers_key_separator),
            ("headers.separator", &headers_separator, "headers.key.separator", &headers_key_separator),
        ];
        if let Some(marker) = &null_marker {
            differ.push(("null.marker", marker, "key.separator", &key_separator));
            differ.push(("null.marker", marker, "headers.separator", &headers_separator));
            differ.push(("null.marker", marker, "headers.delimiter", &headers_delimiter));
            differ.push(("null.marker", marker, "headers.key.separator", &headers_key_separator));
        }
        if let Some((a, _, b, _)) = differ.iter().find(|(_, a, _, b)| a == b) {
            return Err(format!("{a} and {b} may not be equal"));
        }
        let headers_separator = Regex::new(&headers_separator).map_err(|error| format!("headers.separator: {error}"))?;
        Ok(LineReader {
            parse_key: flag(properties, "parse.key"),
            parse_headers: flag(properties, "parse.headers"),
            ignore_error: flag(properties, "ignore.error"),
            key_separator,
            headers_delimiter,
            headers_separator,
            headers_key_separator,
            null_marker,
            line_number: 0,
        })
    }

    /// The record of the next line, without a timestamp. Bytes that are no UTF-8 pass unchanged.
    pub fn record(&mut self, line: &[u8]) -> Result<NewRecord, String> {
        self.line_number += 1;
        let (headers, rest) = self.cut(self.parse_headers, line, line, &self.headers_delimiter, "headers delimiter")?;
        let (key, value) = self.cut(self.parse_key, line, rest, &self.key_separator, "key separator")?;
        let headers = match headers.filter(|headers| !self.is_null(headers)) {
            Some(headers) => self.headers(headers)?,
            None => Vec::new(),
        };
        let present = |field: &&[u8]| !self.is_null(field);
        let key = key.filter(present).map(<[u8]>::to_vec);
        Ok(NewRecord { key, value: Some(value).filter(present).map(<[u8]>::to_vec), timestamp: -1, headers })
    }

    /// What stands before the separator, if it is asked for, and the rest.
    fn cut<'a>(
        &self,
        wanted: bool,
        line: &[u8],
        rest: &'a [u8],
        separator: &str,
        name: &str,
    ) -> Result<(Option<&'a [u8]>, &'a [u8]), String> {
        if !wanted {
            return Ok((None, rest));
        }
        match split_once(rest, separator.as_bytes()) {
            Some((front, rest)) => Ok((Some(front), rest)),
            None if self.ignore_error => Ok((None, rest)),
            None => Err(format!("No {name} found on line number {}: '{}'", self.line_number, String::from_utf8_lossy(line))),
        }
    }

    fn headers(&self, text: &[u8]) -> Result<Headers, String> {
        let mut headers = Vec::new();
        for pair in self.headers_separator.split(text) {
            let shown = || String::from_utf8_lossy(pair).into_owned();
            match split_once(pair, self.headers_key_separator.as_bytes()) {
                Some((key, _)) if self.is_null(key) => {
                    let marker = String::from_utf8_lossy(key);
                    return Err(format!("Header keys should not be equal to the null marker '{marker}' as they can't be null"));
                }
                Some((key, value)) => {
                    let value = (!self.is_null(value)).then(|| value.to_vec());
                    headers.push((String::from_utf8_lossy(key).into_owned(), value));
                }
                None if self.ignore_error => headers.push((shown(), None)),
                None => return Err(format!("No header key separator found in pair '{}' on line number {}", shown(), self.line_number)),
            }
        }
        Ok(headers)
    }

    fn is_null(&self, field: &[u8]) -> bool {
        self.null_marker.as_ref().is_some_and(|marker| marker.as_bytes() == field)
    }
}

fn split_once<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = if separator.is_empty() { Some(0) } else { text.windows(separator.len()).position(|window| window == separator) };
    at.map(|at| (&text[..at], &text[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(properties: &[(&str, &str)]) -> Result<LineReader, String> {
        LineReader::new(&properties.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn shown(properties: &[(&str, &str)], line: &str) -> Result<String, String> {
        let record = reader(properties)?.record(line.as_bytes())?;
        let text = |field: &Option<Vec<u8>>| field.as_ref().map_or("null".to_owned(), |bytes| String::from_utf8_lossy(bytes).into_owned());
        let headers: Vec<String> = record.headers.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
        Ok(format!("{}|{}|{}", headers.join(","), text(&record.key), text(&record.value)))
    }

    #[test]
    fn keys_headers_and_nulls() {
        let key = ("parse.key", "true");
        let headers = ("parse.headers", "TRUE");
        assert_eq!(shown(&[], "a\tb").unwrap(), "|null|a\tb");
        assert_eq!(shown(&[key], "a\tb\tc").unwrap(), "|a|b\tc");
        assert_eq!(shown(&[key, ("key.separator", "::")], "a::b").unwrap(), "|a|b");
        assert_eq!(shown(&[key, headers], "h1:v1,h2:\tk\tv").unwrap(), "h1=v1,h2=|k|v");
        assert_eq!(shown(&[headers], "h1:v1\tv").unwrap(), "h1=v1|null|v");
        let null = ("null.marker", "NIL");
        assert_eq!(shown(&[key, headers, null], "h:NIL\tNIL\tNIL").unwrap(), "h=null|null|null");
        assert_eq!(shown(&[key, headers, null], "NIL\tk\tv").unwrap(), "|k|v");
    }

    /// Texts as Kafka 4.3.1 gives them.
    #[test]
    fn errors() {
        let key = ("parse.key", "true");
        assert_eq!(shown(&[key], "abc").unwrap_err(), "No key separator found on line number 1: 'abc'");
        assert_eq!(shown(&[key, ("ignore.error", "true")], "abc").unwrap(), "|null|abc");
        let headers = ("parse.headers", "true");
        assert_eq!(shown(&[headers], "h1\tv").unwrap_err(), "No header key separator found in pair 'h1' on line number 1");
        assert_eq!(shown(&[headers, ("ignore.error", "true")], "h1\tv").unwrap(), "h1=null|null|v");
        assert_eq!(shown(&[("headers.delimiter", ",")], "").unwrap_err(), "headers.delimiter and headers.separator may not be equal");
        assert_eq!(shown(&[("null.marker", "\t")], "").unwrap_err(), "null.marker and key.separator may not be equal");
        assert!(shown(&[headers, ("null.marker", "x")], "x:1\tv").unwrap_err().starts_with("Header keys should not be equal"));
    }
}
