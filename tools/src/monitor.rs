//! `culvert monitor`: SAs and statistics as they are now, again and again; or each event as it comes.

use std::{
    io::{self, IsTerminal, Write},
    thread,
    time::{Duration, SystemTime},
};

use daemon::vici::Message;
use humantime::format_rfc3339_seconds;

use crate::Failure;
use crate::control::{Socket, sections};
use crate::show::{View, rows, table};
use crate::stats::{self, Detail, Format};

/// What is told of SAs.
const EVENTS: [&str; 5] = ["log", "ike-updown", "ike-rekey", "child-updown", "child-rekey"];

/// Arguments of `culvert monitor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Seconds between two pictures
    #[arg(long, value_name = "SECONDS", value_parser = stats::interval, default_value = "15")]
    interval: Duration,
    /// Print each event and log line as it comes, instead
    #[arg(long)]
    events: bool,
    /// The statistics segment
    #[arg(long, value_name = "FILE", default_value = stats::DEFAULT_FILE)]
    file: std::path::PathBuf,
    #[command(flatten)]
    socket: Socket,
}

/// Runs `culvert monitor`, until it is interrupted or the daemon ends.
///
/// # Errors
///
/// Where no daemon answers, or it ends.
pub fn run(args: &Args) -> Result<(), Failure> {
    if args.events {
        return events(&args.socket);
    }
    let redraw = io::stdout().is_terminal();
    loop {
        let mut client = args.socket.connect()?;
        let mut picture = Vec::new();
        writeln!(picture, "{}\n", format_rfc3339_seconds(SystemTime::now()))?;
        for (view, shown) in [
            (View::MainModeSas, [0, 2, 4, 5, 7, 10, 11].as_slice()),
            (View::QuickModeSas, [0, 2, 3, 4, 5, 10, 14, 15].as_slice()),
        ] {
            table(&mut picture, view, shown, &rows(&mut client, view)?)?;
            writeln!(picture)?;
        }
        stats::write(&mut picture, &stats::read(&args.file)?, Format::Text, Detail::Totals)?;
        let mut out = io::stdout().lock();
        if redraw {
            // Cursor home, clear the screen.
            out.write_all(b"\x1b[H\x1b[2J")?;
        }
        out.write_all(&picture)?;
        out.flush()?;
        drop(out);
        thread::sleep(args.interval);
    }
}

fn events(socket: &Socket) -> Result<(), Failure> {
    let mut client = socket.connect()?;
    let mut written = Ok(());
    let ended = client.listen(&EVENTS, |name, message| {
        let now = format_rfc3339_seconds(SystemTime::now());
        written = writeln!(io::stdout(), "{now} {}", line(name, message));
        written.is_ok()
    });
    written?;
    ended.map_err(|error| Failure::new(format!("the daemon ended: {error}")))
}

/// `child-updown up gw[1] 192.0.2.2 net{3} 10.0.0.0/8 === 10.1.0.0/16`
fn line(name: &str, message: &Message) -> String {
    if name == "log" {
        let part = |name| message.text(name).unwrap_or("");
        return format!("[{}] {}", part("group"), part("msg")).escape_debug().to_string();
    }
    let mut text = name.to_owned();
    if name.ends_with("updown") {
        text.push_str(if message.text("up") == Some("yes") { " up" } else { " down" });
    }
    for (connection, sa) in sections(message) {
        let now = sa.section("new").unwrap_or(sa);
        let part = |name| now.text(name).unwrap_or("");
        text.push_str(&format!(" {connection}[{}] {}", part("uniqueid"), part("remote-host")));
        for (_, child) in sa.section("child-sas").map(sections).into_iter().flatten() {
            let child = child.section("new").unwrap_or(child);
            let part = |name| child.text(name).unwrap_or("");
            let selectors = |name| crate::control::texts(child, name);
            text.push_str(&format!(
                " {}{{{}}} {} === {}",
                part("name"),
                part("uniqueid"),
                selectors("local-ts"),
                selectors("remote-ts")
            ));
        }
    }
    // Names are the peer's and the operator's to choose; a terminal does not obey them.
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let child = Message::new()
            .with("name", "net")
            .with("uniqueid", 3)
            .with_list("local-ts", ["10.0.0.0/8"])
            .with_list("remote-ts", ["10.1.0.0/16"]);
        let sa = Message::new().with("uniqueid", 1).with("remote-host", "192.0.2.2");
        let sa = sa.with_section("child-sas", Message::new().with_section("net-3", child.clone()));
        let event = Message::new().with("up", "yes").with_section("gw", sa.clone());
        assert_eq!(
            line("child-updown", &event),
            "child-updown up gw[1] 192.0.2.2 net{3} 10.0.0.0/8 === 10.1.0.0/16"
        );
        let rekeyed = Message::new().with_section("old", Message::new()).with_section("new", child);
        let sa = Message::new()
            .with("uniqueid", 1)
            .with("remote-host", "192.0.2.2")
            .with_section("child-sas", Message::new().with_section("net", rekeyed));
        assert_eq!(
            line("child-rekey", &Message::new().with_section("gw", sa)),
            "child-rekey gw[1] 192.0.2.2 net{3} 10.0.0.0/8 === 10.1.0.0/16"
        );
        let log = Message::new().with("group", "IKE").with("msg", "a\u{7}b");
        assert_eq!(line("log", &log), "[IKE] a\\u{7}b");
    }
}
