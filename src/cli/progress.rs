use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

use super::render;
use crate::execute::{Performed, Progress};
use crate::model::{Desired, Step};

/// A line for every step when it ended; on a terminal also one, drawn over, for
/// what goes on.
#[derive(Debug, Default)]
pub struct Lines {
    /// Standard output is for the result alone.
    quiet: bool,
    /// What goes on, by what is shown of it.
    running: Mutex<BTreeMap<String, usize>>,
}

impl Lines {
    /// Lines on standard output, or where that is not theirs on standard error.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            ..Self::default()
        }
    }

    fn draw(&self, change: impl FnOnce(&mut BTreeMap<String, usize>), line: Option<&str>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut running);
        let mut out = std::io::stderr();
        let terminal = out.is_terminal();
        if terminal {
            let _ = write!(out, "\r\x1b[K");
        }
        match line {
            Some(line) if self.quiet => anstream::eprintln!("{line}"),
            Some(line) => anstream::println!("{line}"),
            None => {}
        }
        if terminal && !running.is_empty() {
            let names: Vec<&str> = running.keys().map(String::as_str).collect();
            let line: String = names.join(", ").chars().take(render::WIDTH - 4).collect();
            let _ = write!(out, "  … {line}");
            let _ = out.flush();
        }
    }

    /// Nothing goes on any more.
    pub fn end(&self) {
        self.draw(BTreeMap::clear, None);
    }
}

impl Progress for Lines {
    fn begins(&self, desired: &Desired, step: &Step) {
        let what = render::short(desired, step);
        self.draw(|running| *running.entry(what).or_default() += 1, None);
    }

    fn ended(&self, desired: &Desired, performed: &Performed) {
        let what = render::short(desired, &performed.step);
        let line = render::performed(desired, performed);
        self.draw(
            |running| {
                running.remove(&what);
            },
            Some(&line),
        );
    }
}
