//! Parses the arguments, starts tracing, runs the command, turns an error into
//! an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use renet::cli::{self, Cli, Failure};

#[tokio::main]
async fn main() -> ExitCode {
    // It reads passphrases: no core of it is ever dumped.
    if nix::unistd::geteuid().is_root() {
        let _ = nix::sys::prctl::set_dumpable(false);
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("RENET_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match cli::run(Cli::parse()).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = error
                .downcast_ref::<Failure>()
                .map_or(3, |failure| failure.code);
            let text = format!("{error:#}");
            let error = if text.starts_with("error") {
                ""
            } else {
                "error: "
            };
            cli::output::warn(&format!("{error}{text}\n"));
            ExitCode::from(code)
        }
    }
}
