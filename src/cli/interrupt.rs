use std::sync::atomic::{AtomicU8, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of the signal that came, 0 before.
static CODE: AtomicU8 = AtomicU8::new(0);

/// Ctrl-C and its kin: the first ends the run before its next step, the second
/// ends the program.
pub struct Interrupt(CancellationToken);

impl Interrupt {
    /// Listens from now on.
    pub fn listen() -> Self {
        let token = CancellationToken::new();
        for (kind, code) in [
            (SignalKind::interrupt(), 130),
            (SignalKind::terminate(), 143),
        ] {
            let Ok(mut signals) = signal(kind) else {
                continue;
            };
            let token = token.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if CODE.swap(code, Ordering::SeqCst) != 0 {
                        std::process::exit(code.into());
                    }
                    anstream::eprintln!("stopping at the next safe point; again: at once");
                    token.cancel();
                }
            });
        }
        Self(token)
    }

    /// Cancelled by the first signal.
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }

    /// The exit code of the signal that came.
    pub fn code() -> u8 {
        match CODE.load(Ordering::SeqCst) {
            0 => 130,
            code => code,
        }
    }
}
