//! The `culvert` command: chooses the subcommand, and says how it ended.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use culvert::Failure;

/// A userspace IPsec gateway.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures the throughput of a worker, in memory (no root) or over AF_XDP ports
    Bench(culvert::bench::Args),
    /// Shows two gateways at work in one process; needs no root and no network
    Demo(culvert::demo::Args),
    /// Runs the gateway in the foreground
    Run(culvert::run::Args),
    /// Removes what a gateway left on the host: fail-closed rules, the routing rule, proxied neighbours
    Cleanup,
    /// Says what a configuration means, and everything that is wrong with it
    Check(culvert::check::Args),
    /// Brings a child up
    Initiate(culvert::control::InitiateArgs),
    /// Has a running daemon read its configuration again
    Reload(culvert::control::ReloadArgs),
    /// Rekeys SAs
    Rekey(culvert::control::RekeyArgs),
    /// Answers known-answer requests, JSON lines in and out
    Kat(culvert::kat::Args),
    /// Shows SAs and statistics again and again, or each event as it comes
    Monitor(culvert::monitor::Args),
    /// Shows filters and SAs as tables
    Show(culvert::show::Args),
    /// Prints the main mode and quick mode statistics, and where every packet went
    Stats(culvert::stats::Args),
    /// Closes SAs
    Terminate(culvert::control::TerminateArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => culvert::bench::run(&args),
        Command::Demo(args) => culvert::demo::run(&args),
        Command::Run(args) => culvert::run::run(&args),
        Command::Cleanup => culvert::run::cleanup(),
        Command::Check(args) => culvert::check::run(&args),
        Command::Initiate(args) => culvert::control::initiate(&args),
        Command::Reload(args) => culvert::control::reload(&args),
        Command::Rekey(args) => culvert::control::rekey(&args),
        Command::Kat(args) => culvert::kat::command(&args),
        Command::Monitor(args) => culvert::monitor::run(&args),
        Command::Show(args) => culvert::show::run(&args),
        Command::Stats(args) => culvert::stats::run(&args),
        Command::Terminate(args) => culvert::control::terminate(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

/// Whoever closed our output had enough of it; that is no error to report.
fn report(failure: &Failure) -> ExitCode {
    if failure.is_broken_pipe() {
        return ExitCode::SUCCESS;
    }
    // Nothing is left to do where standard error is closed too.
    let _ = writeln!(io::stderr(), "{failure}");
    ExitCode::FAILURE
}
