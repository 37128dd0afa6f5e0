//! `culvert run` and `culvert cleanup`.

use std::io::IsTerminal;
use std::path::PathBuf;

use daemon::config::Options;
use tracing_subscriber::EnvFilter;

use crate::Failure;

/// Arguments of `culvert run`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// swanctl.conf, with or without a `gateway` section
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Take secrets from files that every user can read
    #[arg(long)]
    allow_readable_secrets: bool,
}

/// Runs the gateway in the foreground until SIGTERM or SIGINT; SIGHUP reloads.
///
/// # Errors
///
/// Why it did not start.
pub fn run(args: &Args) -> Result<(), Failure> {
    // RUST_LOG chooses what is logged; secrets never are.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let options = Options { readable_secrets: args.allow_readable_secrets };
    daemon::run::run(&args.config, options).map_err(Failure::new)
}

/// Removes what a gateway that was killed, or ended while failing closed, left on the host.
///
/// # Errors
///
/// What the host refuses.
pub fn cleanup() -> Result<(), Failure> {
    daemon::run::cleanup().map_err(|error| Failure::new(error).next("run as root"))
}
