//! Java's `.properties` text format, as `java.util.Properties.load` reads it.

use std::fmt;

/// Why a text is not a properties file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadProperties {
    /// Line that it is about, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

impl fmt::Display for BadProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// The pairs of a file, in its order; of equal keys the last is meant to win. Bytes that are not UTF-8 are taken as ISO-8859-1, which
/// is what Java takes all of them for.
pub fn parse(content: &[u8]) -> Result<Vec<(String, String)>, BadProperties> {
    let content = without_byte_order_mark(content);
    let text = match std::str::from_utf8(content) {
        Ok(text) => text.to_owned(),
        Err(_) => content.iter().map(|&b| b as char).collect(),
    };
    logical_lines(&text).into_iter().map(|(number, line)| pair(&line).map_err(|reason| BadProperties { line: number, reason })).collect()
}

/// The content of a text file without the byte-order mark that some editors put in front of UTF-8.
pub fn without_byte_order_mark(content: &[u8]) -> &[u8] {
    content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content)
}

/// Lines without comments and blanks, continued ones joined, each with the number of its first line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    for (index, natural) in text.split('\n').enumerate() {
        let content = natural.trim_start_matches(blank);
        if open.is_none() && (content.is_empty() || content.starts_with(['#', '!'])) {
            continue;
        }
        let (number, mut line) = open.take().unwrap_or((index + 1, String::new()));
        line.push_str(content);
        // An odd number of backslashes at the end: the last one escapes the line end.
        let backslashes = content.len() - content.trim_end_matches('\\').len();
        if backslashes % 2 == 1 {
            line.pop();
            open = Some((number, line));
        } else {
            lines.push((number, line));
        }
    }
    lines.extend(open);
    lines
}

fn blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\x0c')
}

/// Splits one logical line at its first unescaped `=`, `:` or blank.
fn pair(line: &str) -> Result<(String, String), &'static str> {
    let mut escaped = false;
    let end = line
        .find(|c| {
            let ends = !escaped && (blank(c) || c == '=' || c == ':');
            escaped = !escaped && c == '\\';
            ends
        })
        .unwrap_or(line.len());
    let rest = line[end..].trim_start_matches(blank);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(blank);
    Ok((unescape(&line[..end])?, unescape(value)?))
}

fn unescape(text: &str) -> Result<String, &'static str> {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let plain = match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some('u') => {
                    units.push(hex_unit(&mut chars)?);
                    continue;
                }
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).map_err(|_| "\\u escapes that are half a surrogate pair")
}

fn hex_unit(chars: &mut std::str::Chars<'_>) -> Result<u16, &'static str> {
    let mut unit = 0;
    for _ in 0..4 {
        let digit = chars.next().and_then(|c| c.to_digit(16)).ok_or("\\u must be followed by four hexadecimal digits")?;
        unit = unit << 4 | digit as u16;
    }
    Ok(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> (String, String) {
        let mut all = parse(text.as_bytes()).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn is(text: &str, key: &str, value: &str) {
        assert_eq!(one(text), (key.to_owned(), value.to_owned()), "{text:?}");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_key() {
        is("\u{feff}a=1", "a", "1");
        is("\u{feff}#comment\na=\u{feff}", "a", "\u{feff}");
        assert_eq!(parse(b"\xef\xbb\xbfa=\xe4").unwrap(), [("a".to_owned(), "\u{e4}".to_owned())]);
    }

    #[test]
    fn separators_and_blanks() {
        is("a=b", "a", "b");
        is("a:b", "a", "b");
        is("a b", "a", "b");
        is("  a \t = \x0c b c ", "a", "b c ");
        is("a==b", "a", "=b");
        is("a", "a", "");
        is("a=", "a", "");
        is("listeners=PLAINTEXT://:9092,CONTROLLER://:9093\r\n", "listeners", "PLAINTEXT://:9092,CONTROLLER://:9093");
        is("a\\ b\\=c = d", "a b=c", "d");
    }

    #[test]
    fn comments_and_continuations() {
        is("# x\n!y\n\n   # z\na=b\n", "a", "b");
        is("a=b,\\\n   c,\\\r\n\td", "a", "b,c,d");
        is("a=b\\\\\nc=d".split('\n').next().unwrap(), "a", "b\\");
        is("a=b\\\n# not a comment", "a", "b# not a comment");
        is("a=b\\", "a", "b");
        assert_eq!(parse(b"a=1\ra=2").unwrap().len(), 2);
    }

    #[test]
    fn escapes() {
        is("a=\\t\\n\\r\\f\\u0041\\q", "a", "\t\n\r\x0cAq");
        is("a=\\uD83D\\uDE00", "a", "\u{1f600}");
        is("p=C\\:\\\\x", "p", "C:\\x");
        assert_eq!(
            parse(b"x=1\n\na=\\u00").unwrap_err(),
            BadProperties { line: 3, reason: "\\u must be followed by four hexadecimal digits" }
        );
        assert!(parse(b"a=\\uD83D").is_err());
    }

    #[test]
    fn both_encodings() {
        is("a=ü", "a", "ü");
        assert_eq!(parse(b"a=\xfc").unwrap()[0].1, "ü");
    }
}
