//! How results reach standard output.

use std::borrow::Cow;

use serde::Serialize;

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// For programs, as YAML
    Yaml,
}

/// How much of a list is printed, and how.
#[derive(Debug, clap::Args)]
pub struct Last {
    /// How many, the last ones
    #[arg(short = 'n', long, default_value_t = 50, value_name = "NUMBER")]
    pub lines: usize,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Prints one value on standard output, and nothing else.
pub fn print<T: Serialize>(
    format: Format,
    value: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Text => say(&text()),
        Format::Json => anstream::println!("{}", serde_json::to_string_pretty(value)?),
        Format::Yaml => anstream::print!("{}", serde_yaml::to_string(value)?),
    }
    Ok(())
}

/// Prints text for people.
pub fn say(text: &str) {
    anstream::print!("{}", readable(text));
}

/// Prints text for people that is no result.
pub fn warn(text: &str) {
    anstream::eprint!("{}", readable(text));
}

/// The columns of the terminal; what is no terminal has as many as a line needs.
pub fn width() -> usize {
    const NARROWEST: usize = 40;
    let said = std::env::var("COLUMNS").ok().and_then(|n| n.parse().ok());
    let width = said.or_else(|| comfy_table::Table::new().width().map(usize::from));
    width.map_or(usize::MAX, |width: usize| width.max(NARROWEST))
}

/// Text as this terminal's locale can show it: where that is C or POSIX, arrows
/// and ellipses become ASCII, and what else is not ASCII a question mark.
pub fn readable(text: &str) -> Cow<'_, str> {
    readable_in(text, |name| std::env::var(name).ok())
}

/// The same, with the variables that say which locale it is.
pub fn readable_in(text: &str, variable: impl Fn(&str) -> Option<String>) -> Cow<'_, str> {
    // The first that says anything counts.
    let mut said = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter();
    let locale = said.find_map(|name| variable(name).filter(|value| !value.is_empty()));
    if !matches!(locale.as_deref(), Some("C" | "POSIX")) || text.is_ascii() {
        return Cow::Borrowed(text);
    }
    // What takes more room is paid for by the next gap, so that columns stay where
    // they are and lines as long.
    const GAP: usize = 2;
    let mut out = String::with_capacity(text.len());
    let (mut spaces, mut owed) = (0_usize, 0);
    for c in text.chars().chain(['\n']) {
        if c == ' ' {
            spaces += 1;
            continue;
        }
        let paid = spaces.saturating_sub(GAP).min(owed);
        owed -= paid;
        out.extend(std::iter::repeat_n(' ', spaces - paid));
        spaces = 0;
        match c {
            '→' => out.push_str("->"),
            '…' => out.push_str("..."),
            c if c.is_ascii() => out.push(c),
            _ => out.push('?'),
        }
        owed = if c == '\n' { 0 } else { owed + room(c) - 1 };
    }
    out.pop();
    Cow::Owned(out)
}

/// How many columns a character may take.
fn room(c: char) -> usize {
    match c {
        '→' => 2,
        '…' => 3,
        _ => 1,
    }
}

/// How many columns a text may take, in whatever locale.
fn widest(text: &str) -> usize {
    text.chars().map(room).sum()
}

/// What is known of one thing, a line each.
pub fn facts<const N: usize>(facts: [(&str, Option<String>); N]) -> String {
    let known = facts.into_iter();
    let known = known.filter_map(|(name, value)| Some((name, value?)));
    known
        .map(|(name, value)| format!("{name:<12}{value}\n"))
        .collect()
}

/// How many columns a text takes; its styles take none.
fn columns(text: &str) -> usize {
    let parts = anstream::adapter::strip_str(text);
    parts.map(|part| part.chars().count()).sum()
}

/// Rows beneath their header, as wide as their widest cell. The last cell is for
/// sentences: one that does not fit beside the others goes below them.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]], width: usize) -> String {
    let widths = widths(header, rows);
    let mut out = line(&header.map(str::to_owned), &widths, width);
    for row in rows {
        out.push_str(&line(row, &widths, width));
    }
    out
}

/// How wide each column but the last must be.
pub fn widths<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> [usize; N] {
    let mut widths = header.map(str::len);
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(columns(cell));
        }
    }
    widths
}

/// One row of a table.
pub fn line<const N: usize>(row: &[String; N], widths: &[usize; N], width: usize) -> String {
    const GAP: &str = "  ";
    let mut out = String::new();
    let cells = row.iter().zip(widths).take(N - 1);
    for (cell, column) in cells {
        let gap = column.saturating_sub(columns(cell));
        out.push_str(&format!("{cell}{:gap$}{GAP}", ""));
    }
    let last = &row[N - 1];
    let arrows = widest(last) - last.chars().count();
    if columns(&out) + columns(last) + arrows <= width {
        out.push_str(last);
        out.truncate(out.trim_end().len());
        out.push('\n');
        return out;
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    for part in wrapped(last, width.saturating_sub(INDENT.len())) {
        out.push_str(&format!("{INDENT}{part}\n"));
    }
    out
}

const INDENT: &str = "    ";

/// Words in lines of at most `width` columns; a longer word has a line of its own.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words(text) {
        match lines.last_mut() {
            Some(line) if widest(line) + 1 + widest(&word) <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// Words, of which a command in back-ticks is one: it is there to be copied.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut quoted = false;
    for word in text.split_whitespace() {
        match words.last_mut().filter(|_| quoted) {
            Some(last) => {
                last.push(' ');
                last.push_str(word);
            }
            None => words.push(word.to_owned()),
        }
        quoted ^= word.matches('`').count() % 2 == 1;
    }
    words
}

/// The first digits of a revision: enough for people.
pub fn revision(id: &str) -> &str {
    id.get(..7).unwrap_or(id)
}

/// How long, in its largest unit: `5s`, `3m`, `2h`, `12d`.
pub fn short_time(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// How long ago.
pub fn age(now: jiff::Timestamp, then: jiff::Timestamp) -> String {
    short_time(now.duration_since(then).as_secs())
}

/// `a, b, c`
pub fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// A number of things: `1 step`, `3 repositories`.
pub fn count(number: usize, what: &str) -> String {
    match (number, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_locale_cannot_show_is_written_in_ascii() {
        let text = "a → b… ü";
        let of = |set: &'static [(&str, &str)]| {
            let find = move |name: &str| {
                let mut all = set.iter();
                Some(all.find(|(key, _)| *key == name)?.1.to_owned())
            };
            readable_in(text, find).into_owned()
        };
        for ascii in [
            &[("LC_ALL", "C")][..],
            &[("LC_CTYPE", "POSIX"), ("LANG", "de_DE.UTF-8")],
            &[("LC_ALL", ""), ("LANG", "C")],
        ] {
            assert_eq!(of(ascii), "a -> b... ?");
        }
        let padded = "1 → 2…      note\n… → 1  2     3";
        let ascii = |_: &str| Some("C".to_owned());
        assert_eq!(
            readable_in(padded, ascii),
            "1 -> 2...   note\n... -> 1  2  3"
        );
        for wide in [&[][..], &[("LC_ALL", "C.UTF-8"), ("LANG", "C")]] {
            assert_eq!(of(wide), text);
        }
    }

    #[test]
    fn a_sentence_that_does_not_fit_goes_below_its_row() {
        let row = |name: &str, said: &str| [name.to_owned(), said.to_owned()];
        let rows = [
            row("a", "short"),
            row("longer", "one two three four five six"),
        ];
        insta::assert_snapshot!(table(["NAME", "MESSAGE"], &rows, 24), @r"
        NAME    MESSAGE
        a       short
        longer
            one two three four
            five six
        ");
        assert_eq!(
            table(["NAME", "MESSAGE"], &rows, usize::MAX)
                .lines()
                .count(),
            3
        );
    }
}
