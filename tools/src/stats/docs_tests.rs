//! docs/statistics.md beside the code.

use std::fs;

use stats::{Counter, Kind, MainMode, MainModePart, QuickMode};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/statistics.md");

/// Returns the lines between the two marks of a table.
fn table<'a>(page: &'a str, name: &str) -> &'a str {
    let (begin, end) = marks(name);
    let start = page.find(&begin).expect("the table begins") + begin.len();
    let len = page[start..].find(&end).expect("the table ends");
    &page[start..start + len]
}

fn marks(name: &str) -> (String, String) {
    (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->\n"))
}

/// Returns the cells of each row below the heading.
fn cells(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .skip(2)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn assert_described(table: &str, rows: &[Counter]) {
    let cells = cells(table);
    assert_eq!(cells.len(), rows.len());
    for (cells, row) in cells.iter().zip(rows) {
        let kind = match row.kind {
            Kind::Counter => "C",
            Kind::Gauge => "G",
        };
        assert_eq!(cells[..3], [row.display, &format!("`{}`", row.name), kind]);
        assert!(!cells[3].is_empty(), "no event moves {}", row.name);
    }
}

#[test]
fn every_main_mode_row_has_its_event_and_its_labels() {
    let page = fs::read_to_string(PAGE).unwrap();
    let table = table(&page, "main mode");
    assert_described(table, MainMode::descriptors());
    for (cells, row) in cells(table).iter().zip(MainMode::ALL) {
        let mut labels: Vec<_> = MainModePart::all()
            .filter(|part| part.row() == row)
            .map(|part| part.label().0)
            .collect();
        labels.dedup();
        assert_eq!(cells[4], labels.join(", "), "labels of {}", row.name());
    }
}

#[test]
fn every_quick_mode_row_has_its_event_and_its_mover() {
    let page = fs::read_to_string(PAGE).unwrap();
    let table = table(&page, "quick mode");
    assert_described(table, QuickMode::descriptors());
    for (cells, row) in cells(table).iter().zip(QuickMode::ALL) {
        let mover = cells[4].split(',').next();
        let expected = if row.worker_counter().is_some() { "workers" } else { "control" };
        assert_eq!(mover, Some(expected), "{}", row.name());
    }
}

/// With `UPDATE_GOLDEN` set, writes the table anew, to be reviewed as part of the change.
#[test]
fn every_drop_cause_has_its_row() {
    let mut expected = "| cause | quick mode row | why |\n|---|---|---|\n".to_owned();
    for cause in worker::drop_counters() {
        let row = cause.row.map_or_else(|| "none".to_owned(), |row| format!("`{}`", row.name()));
        expected += &format!("| `{}` | {row} | {} |\n", cause.display, cause.help);
    }
    let mut page = fs::read_to_string(PAGE).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        page = page.replace(table(&page, "drop causes"), &expected);
        fs::write(PAGE, &page).unwrap();
    }
    let found = table(&page, "drop causes");
    assert!(found == expected, "UPDATE_GOLDEN=1 rewrites it; expected:\n{expected}");
}

#[test]
fn a_drop_cause_names_a_row_of_refused_packets_or_none() {
    for cause in worker::drop_counters() {
        assert!(cause.row.is_none_or(QuickMode::counts_refused_packets), "{cause:?}");
    }
}
