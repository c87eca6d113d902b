use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

use super::{output, render};
use crate::execute::{Performed, Progress};
use crate::model::{Desired, Step};

/// A line for every step when it ended; on a terminal also one, drawn over, for
/// what goes on.
#[derive(Debug, Default)]
pub struct Lines {
    /// Standard output is for the result alone.
    quiet: bool,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// What goes on, by what is shown of it.
    steps: BTreeMap<String, usize>,
    /// How many columns are drawn of it.
    drawn: usize,
}

impl Lines {
    /// Lines on standard output, or where that is not theirs on standard error.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            ..Self::default()
        }
    }

    fn draw(&self, change: impl FnOnce(&mut Running), line: Option<&str>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut running);
        let mut out = std::io::stderr();
        let terminal = out.is_terminal();
        if terminal && running.drawn > 0 {
            // Blanks, not an escape sequence: every terminal knows them.
            let _ = write!(out, "\r{:width$}\r", "", width = running.drawn);
            running.drawn = 0;
        }
        match line {
            Some(line) if self.quiet => output::warn(&format!("{line}\n")),
            Some(line) => output::say(&format!("{line}\n")),
            None => {}
        }
        if terminal && !running.steps.is_empty() {
            let room = output::width().min(render::WIDTH) - 6;
            let names: Vec<&str> = running.steps.keys().map(String::as_str).collect();
            let names: String = names.join(", ").chars().take(room).collect();
            let line = format!("  … {names}");
            let line = output::readable(&line);
            let _ = write!(out, "{line}");
            let _ = out.flush();
            running.drawn = line.chars().count();
        }
    }

    /// Nothing goes on any more.
    pub fn end(&self) {
        self.draw(|running| running.steps.clear(), None);
    }
}

impl Progress for Lines {
    fn begins(&self, desired: &Desired, step: &Step) {
        let what = render::short(desired, step);
        self.draw(|running| *running.steps.entry(what).or_default() += 1, None);
    }

    fn said(&self, desired: &Desired, step: &Step, line: &str) {
        let what = render::short(desired, step);
        self.draw(|_| (), Some(&format!("  {what} | {line}")));
    }

    fn ended(&self, desired: &Desired, performed: &Performed) {
        let what = render::short(desired, &performed.step);
        let line = render::performed(desired, performed, output::width());
        self.draw(
            |running| {
                running.steps.remove(&what);
            },
            Some(&line),
        );
    }
}
