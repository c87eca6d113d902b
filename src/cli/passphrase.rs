//! How a passphrase gets in: by standard input, or typed without an echo.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::Failure;
use crate::host::linux::passphrase::Passphrase;

/// Where a passphrase comes from.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Read the passphrase from standard input; one line end at its end is cut
    #[arg(long)]
    password_stdin: bool,
}

impl Args {
    /// Whether it was said that one comes.
    pub fn is_said(&self) -> bool {
        self.password_stdin
    }

    /// Reads one, to its end; at a terminal it is asked for, twice where it is new.
    pub fn read(&self, of: &str, is_new: bool) -> Result<Passphrase, Failure> {
        let refuse = |error: io::Error| Failure {
            code: 3,
            message: format!("the passphrase of {of}: {error}; nothing was changed"),
        };
        if !io::stdin().is_terminal() || self.password_stdin {
            return Passphrase::read(io::stdin().lock()).map_err(refuse);
        }
        let first = ask(&format!("passphrase of {of}: ")).map_err(refuse)?;
        if is_new {
            let second = ask("once more: ").map_err(refuse)?;
            if !first.is(&second) {
                return Err(refuse(io::Error::other("the two differ")));
            }
        }
        Ok(first)
    }
}

/// Asks at the terminal, which shows nothing of it.
fn ask(prompt: &str) -> io::Result<Passphrase> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    let before = tcgetattr(io::stdin())?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
    let mut line = Zeroizing::new(Vec::new());
    let read = io::stdin().lock().read_until(b'\n', &mut line);
    tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &before)?;
    writeln!(stderr)?;
    read?;
    Passphrase::new(std::mem::take(&mut *line)).map_err(io::Error::other)
}
