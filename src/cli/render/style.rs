//! Colour by meaning. It only carries what the text already says; whether it is
//! printed at all is for the stream to decide.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};

/// What comes.
pub const ADDED: Style = AnsiColor::Green.on_default();
/// What becomes another.
pub const CHANGED: Style = AnsiColor::Yellow.on_default();
/// What goes, and errors.
pub const REMOVED: Style = AnsiColor::Red.on_default();
/// What one may skip.
pub const DIM: Style = Style::new().dimmed();
/// What a paragraph is about.
pub const TITLE: Style = Style::new().bold();

/// Text in a style.
pub fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}
