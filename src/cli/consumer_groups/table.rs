//! Columns of text. Pure.

use std::fmt::Write;

/// One column: its head, and how wide it is at least; `None` for one at the end that is not filled up.
pub struct Column {
    head: &'static str,
    width: Option<usize>,
    /// Whether the column is as wide as its longest entry.
    grows: bool,
}

/// A column of this width, whatever is in it.
pub const fn fixed(head: &'static str, width: usize) -> Column {
    Column { head, width: Some(width), grows: false }
}

/// A column of this width that grows with what is in it.
pub const fn growing(head: &'static str, width: usize) -> Column {
    Column { head, width: Some(width), grows: true }
}

/// A column at the end of the line.
pub const fn last(head: &'static str) -> Column {
    Column { head, width: None, grows: false }
}

/// Head and rows, each line begun by a line end, as Kafka's tools do it; columns are separated by a space.
pub fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let widths: Vec<Option<usize>> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| {
            let longest = rows.iter().filter(|_| column.grows).map(|row| row[i].chars().count()).max().unwrap_or(0);
            column.width.map(|width| width.max(longest))
        })
        .collect();
    let heads: Vec<String> = columns.iter().map(|column| column.head.to_owned()).collect();
    let mut out = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        out.push('\n');
        for (i, (entry, width)) in row.iter().zip(&widths).enumerate() {
            let space = if i > 0 { " " } else { "" };
            let _ = match width {
                Some(width) => write!(out, "{space}{entry:<width$}"),
                None => write!(out, "{space}{entry}"),
            };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths() {
        let columns = [growing("A", 3), fixed("B", 2), last("C")];
        let rows = [vec!["12345".to_owned(), "123".to_owned(), "x".to_owned()], vec!["1".to_owned(), "2".to_owned(), String::new()]];
        assert_eq!(table(&columns, &rows), "\nA     B  C\n12345 123 x\n1     2  ");
    }
}
