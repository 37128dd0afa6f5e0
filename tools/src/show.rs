//! `culvert show`: the views of IP Security Monitor as tables, asked for over the VICI socket.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    process::Command,
};

use daemon::vici::{Client, Message};

use crate::control::{Socket, sections};
use crate::{Failure, control::texts};

/// Arguments of `culvert show`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to show
    #[arg(value_enum)]
    view: View,
    /// Columns to show, in this order; `--columns help` names them
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    columns: Vec<String>,
    /// Columns to sort by; one with a minus before it descends
    #[arg(long, value_name = "[-]COLUMN,…", value_delimiter = ',', allow_hyphen_values = true)]
    sort: Vec<String>,
    /// Show names for addresses that have one
    #[arg(long)]
    resolve: bool,
    /// Print a JSON array of objects instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

/// The views.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Connections: between whom main mode (or IKEv2) is negotiated
    MainModeFilters,
    /// IKE SAs
    MainModeSas,
    /// Children: what traffic is negotiated for
    QuickModeFilters,
    /// Child SAs, a row for each direction
    QuickModeSas,
}

impl View {
    /// Machine names of the columns with their headings.
    const fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::MainModeFilters => &[
                ("name", "Name"),
                ("source", "Source"),
                ("destination", "Destination"),
                ("version", "IKE"),
                ("methods", "Authentication Methods"),
            ],
            Self::MainModeSas => &[
                ("name", "Name"),
                ("id", "ID"),
                ("me", "Me"),
                ("my_id", "My ID"),
                ("peer", "Peer"),
                ("peer_id", "Peer ID"),
                ("authentication", "Authentication"),
                ("encryption", "Encryption"),
                ("integrity", "Integrity"),
                ("diffie_hellman", "Diffie-Hellman"),
                ("state", "State"),
                ("age", "Age"),
            ],
            Self::QuickModeFilters => &[
                ("name", "Name"),
                ("connection", "Negotiation Policy"),
                ("source", "Source"),
                ("destination", "Destination"),
                ("protocol", "Protocol"),
                ("source_port", "Source Port"),
                ("destination_port", "Destination Port"),
                ("mode", "Mode"),
            ],
            Self::QuickModeSas => &[
                ("name", "Negotiation Policy"),
                ("id", "ID"),
                ("direction", "Direction"),
                ("spi", "SPI"),
                ("me", "Me"),
                ("peer", "Peer"),
                ("protocol", "Protocol"),
                ("my_port", "My Port"),
                ("peer_port", "Peer Port"),
                ("ah_integrity", "AH Integrity"),
                ("esp_confidentiality", "ESP Confidentiality"),
                ("esp_integrity", "ESP Integrity"),
                ("my_endpoint", "My Tunnel Endpoint"),
                ("peer_endpoint", "Peer Tunnel Endpoint"),
                ("packets", "Packets"),
                ("bytes", "Bytes"),
                ("age", "Age"),
            ],
        }
    }
}

/// Cells in the order of [`View::columns`].
type Row = Vec<String>;

/// Runs `culvert show`.
///
/// # Errors
///
/// Where no daemon answers, or a column is none of the view's.
pub fn run(args: &Args) -> Result<(), Failure> {
    let columns = args.view.columns();
    let place = |name: &str| {
        columns.iter().position(|(known, _)| *known == name).ok_or_else(|| {
            let known: Vec<&str> = columns.iter().map(|(known, _)| *known).collect();
            Failure::new(format!("this view has no column {name}"))
                .next(format!("use some of: {}", known.join(", ")))
        })
    };
    let shown: Vec<usize> = match args.columns.as_slice() {
        [] => (0..columns.len()).collect(),
        names => names.iter().map(|name| place(name)).collect::<Result<_, _>>()?,
    };
    let order: Vec<(usize, bool)> = args
        .sort
        .iter()
        .map(|name| match name.strip_prefix('-') {
            Some(name) => Ok((place(name)?, true)),
            None => Ok((place(name)?, false)),
        })
        .collect::<Result<_, Failure>>()?;
    let mut client = args.socket.connect()?;
    let mut rows = rows(&mut client, args.view)?;
    rows.sort_by(|a, b| {
        let compared = order.iter().map(|(at, descends)| {
            let ordering = compare(&a[*at], &b[*at]);
            if *descends { ordering.reverse() } else { ordering }
        });
        compared.fold(Ordering::Equal, Ordering::then)
    });
    if args.resolve {
        resolve(&mut rows);
    }
    let mut out = io::stdout().lock();
    if args.json {
        let object = |row: &Row| {
            let cells = shown.iter().map(|at| (columns[*at].0.to_owned(), row[*at].clone().into()));
            serde_json::Value::Object(cells.collect())
        };
        let array: Vec<_> = rows.iter().map(object).collect();
        writeln!(out, "{}", serde_json::to_string(&array).map_err(Failure::new)?)?;
        return Ok(());
    }
    Ok(table(&mut out, args.view, &shown, &rows)?)
}

/// Numbers by their value, other texts by their letters.
fn compare(a: &str, b: &str) -> Ordering {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    }
}

/// Writes some columns, each as wide as its widest cell.
pub(crate) fn table(
    out: &mut impl Write,
    view: View,
    shown: &[usize],
    rows: &[Row],
) -> io::Result<()> {
    let headings = view.columns();
    let width = |at: &usize| {
        let cells = rows.iter().map(|row| row[*at].chars().count());
        cells.chain([headings[*at].1.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = shown.iter().map(width).collect();
    let line = |out: &mut dyn Write, cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(out, &mut shown.iter().map(|at| headings[*at].1))?;
    for row in rows {
        line(out, &mut shown.iter().map(|at| row[*at].as_str()))?;
    }
    Ok(())
}

/// Asks the daemon for the rows of a view.
pub(crate) fn rows(client: &mut Client, view: View) -> Result<Vec<Row>, Failure> {
    let mut ask = |command, event| {
        let mut messages = Vec::new();
        let answer = client.request_streamed(command, event, Message::new(), |m| messages.push(m));
        answer.map_err(Failure::new).map(|_| messages)
    };
    let connections = ask("list-conns", "list-conn")?;
    let methods: BTreeMap<&str, String> = connections
        .iter()
        .flat_map(sections)
        .map(|(name, c)| {
            let rounds = sections(c).filter(|(name, _)| name.starts_with("remote-"));
            let classes = rounds.filter_map(|(_, round)| round.text("class"));
            (name, classes.collect::<Vec<_>>().join(", "))
        })
        .collect();
    Ok(match view {
        View::MainModeFilters => connections
            .iter()
            .flat_map(sections)
            .map(|(name, c)| {
                let (source, destination) = (texts(c, "local_addrs"), texts(c, "remote_addrs"));
                let methods = methods.get(name).cloned().unwrap_or_default();
                vec![shown(name), source, destination, text(c, "version"), methods]
            })
            .collect(),
        View::MainModeSas => {
            let sas = ask("list-sas", "list-sa")?;
            let sas = sas.iter().flat_map(sections);
            sas.map(|(name, sa)| ike_sa(name, sa, methods.get(name))).collect()
        }
        View::QuickModeFilters => {
            let policies = ask("list-policies", "list-policy")?;
            policies.iter().flat_map(sections).flat_map(|(_, policy)| filters(policy)).collect()
        }
        View::QuickModeSas => {
            let sas = ask("list-sas", "list-sa")?;
            let children = sas.iter().flat_map(sections).flat_map(|(_, sa)| {
                let children = sa.section("child-sas").map(sections).into_iter().flatten();
                children.flat_map(move |(_, child)| child_sa(sa, child))
            });
            children.collect()
        }
    })
}

fn ike_sa(name: &str, sa: &Message, method: Option<&String>) -> Row {
    vec![
        shown(name),
        text(sa, "uniqueid"),
        format!("{}[{}]", text(sa, "local-host"), text(sa, "local-port")),
        text(sa, "local-id"),
        format!("{}[{}]", text(sa, "remote-host"), text(sa, "remote-port")),
        text(sa, "remote-id"),
        method.cloned().unwrap_or_default(),
        encryption(sa),
        algorithm(sa, "integ-alg"),
        algorithm(sa, "dh-group"),
        text(sa, "state"),
        text(sa, "established"),
    ]
}

/// Both directions.
fn child_sa(sa: &Message, child: &Message) -> [Row; 2] {
    let is_ah = text(child, "protocol") == "AH";
    let is_tunnel = text(child, "mode") == "TUNNEL";
    let integrity = algorithm(child, "integ-alg");
    let endpoint = |name| if is_tunnel { text(sa, name) } else { String::new() };
    let (me, peer) = (texts(child, "local-ts"), texts(child, "remote-ts"));
    let (protocol, my_port) = parts(&me);
    let (_, peer_port) = parts(&peer);
    ["in", "out"].map(|way| {
        vec![
            text(child, "name"),
            text(child, "uniqueid"),
            way.to_owned(),
            text(child, &format!("spi-{way}")),
            address(&me),
            address(&peer),
            protocol.clone(),
            my_port.clone(),
            peer_port.clone(),
            if is_ah { integrity.clone() } else { String::new() },
            if is_ah { String::new() } else { encryption(child) },
            if is_ah { String::new() } else { integrity.clone() },
            endpoint("local-host"),
            endpoint("remote-host"),
            text(child, &format!("packets-{way}")),
            text(child, &format!("bytes-{way}")),
            text(child, "install-time"),
        ]
    })
}

/// A row for each pair of selectors.
fn filters(policy: &Message) -> Vec<Row> {
    let mut rows = Vec::new();
    for local in policy.list("local-ts").iter().filter_map(|ts| ts.as_str()) {
        for remote in policy.list("remote-ts").iter().filter_map(|ts| ts.as_str()) {
            let ((protocol, source_port), (_, port)) = (parts(local), parts(remote));
            rows.push(vec![
                text(policy, "child"),
                text(policy, "ike"),
                address(local),
                address(remote),
                protocol,
                source_port,
                port,
                text(policy, "mode"),
            ]);
        }
    }
    rows
}

/// `AES_GCM_16-128`
fn encryption(sa: &Message) -> String {
    match (algorithm(sa, "encr-alg"), sa.text("encr-keysize")) {
        (name, Some(bits)) => format!("{name}-{}", shown(bits)),
        (name, None) => name,
    }
}

/// An algorithm's name, and that it is weak where it is.
fn algorithm(sa: &Message, key: &str) -> String {
    let name = sa.text(key).unwrap_or_default();
    let is_weak = sa.list("weak").iter().any(|weak| weak.as_str() == Some(name));
    shown(name) + if is_weak { " (weak)" } else { "" }
}

/// Protocol and port of a selector as VICI writes it, `10.0.0.0/8[tcp/80]`.
fn parts(selector: &str) -> (String, String) {
    let inside = selector.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    let inside = inside.map_or("", |(inside, _)| inside);
    let (protocol, port) = inside.split_once('/').unwrap_or((inside, ""));
    let any = |text: &str| if text.is_empty() { "any".to_owned() } else { text.to_owned() };
    (any(protocol), any(port))
}

/// The addresses of a selector.
fn address(selector: &str) -> String {
    selector.split('[').next().unwrap_or_default().to_owned()
}

/// What a daemon says is shown, not obeyed: a terminal does as control characters tell it.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn text(message: &Message, name: &str) -> String {
    shown(message.text(name).unwrap_or_default())
}

/// Gives addresses their names, as the host's resolver knows them.
fn resolve(rows: &mut [Row]) {
    let mut known: HashMap<String, Option<String>> = HashMap::new();
    for cell in rows.iter_mut().flatten() {
        let bare = cell.split(['[', '/']).next().unwrap_or_default().to_owned();
        // Of networks there are no names, only of hosts.
        let is_host = !cell.contains('/') || cell.ends_with("/32") || cell.ends_with("/128");
        if !is_host || bare.parse::<core::net::IpAddr>().is_err() {
            continue;
        }
        let name = known.entry(bare.clone()).or_insert_with(|| {
            let output = Command::new("getent").args(["hosts", &bare]).output().ok()?;
            let line = String::from_utf8(output.stdout).ok()?;
            line.split_whitespace().nth(1).map(shown)
        });
        if let Some(name) = name {
            *cell = cell.replacen(&bare, name, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_taken_apart() {
        assert_eq!(parts("10.0.0.0/8[tcp/80]"), ("tcp".into(), "80".into()));
        assert_eq!(parts("10.0.0.0/8"), ("any".into(), "any".into()));
        assert_eq!(address("10.0.0.0/8[tcp/80]"), "10.0.0.0/8");
    }

    #[test]
    fn rows_have_a_cell_for_every_column() {
        let child = Message::new().with("name", "net").with_list("local-ts", ["10.0.0.0/8[udp]"]);
        for row in child_sa(&Message::new(), &child) {
            assert_eq!(row.len(), View::QuickModeSas.columns().len());
        }
        let sa = ike_sa("gw", &Message::new(), None);
        assert_eq!(sa.len(), View::MainModeSas.columns().len());
        let policy = child.with_list("remote-ts", ["::/0"]);
        let filters = filters(&policy);
        assert_eq!(filters[0].len(), View::QuickModeFilters.columns().len());
    }

    #[test]
    fn weak_algorithms_are_named_so() {
        let sa = Message::new().with("encr-alg", "3DES_CBC").with("integ-alg", "HMAC_SHA1_96");
        let sa = sa.with("dh-group", "MODP_1024").with_list("weak", ["3DES_CBC", "MODP_1024"]);
        let row = ike_sa("gw", &sa, None).join("|");
        assert!(row.contains("|3DES_CBC (weak)|HMAC_SHA1_96|MODP_1024 (weak)|"), "{row}");
        let rows = child_sa(&Message::new(), &sa);
        assert!(rows.iter().all(|row| row.contains(&"3DES_CBC (weak)".to_owned())));
    }

    #[test]
    fn numbers_sort_by_their_value_and_control_characters_are_not_printed() {
        assert_eq!(compare("9", "10"), Ordering::Less);
        assert_eq!(compare("b", "a"), Ordering::Greater);
        assert_eq!(shown("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
