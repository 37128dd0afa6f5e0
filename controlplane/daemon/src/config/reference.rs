//! The tables of docs/configuration.md, from the tables of keys.

use super::keys::{Support, TABLES};

const BEGIN: &str = "<!-- keys: begin -->\n";
const END: &str = "<!-- keys: end -->\n";

fn tables() -> String {
    let mut text = String::new();
    for table in TABLES {
        text.push_str(&format!("\n### {}\n\n", table.section.replace('<', "\\<")));
        text.push_str("| key | default | meaning |\n|---|---|---|\n");
        for key in table.keys {
            let default = match key.default {
                "" => String::new(),
                default => format!("`{default}`"),
            };
            let support = match key.support {
                Support::Full => "",
                Support::Ignored => " *No effect yet: warning.*",
                Support::Refused => " *Not supported yet: error.*",
            };
            let cell = |text: &str| text.replace('|', "\\|");
            let (name, meaning) = (key.name, cell(key.meaning));
            text.push_str(&format!("| `{name}` | {} | {meaning}{support} |\n", cell(&default)));
        }
    }
    text.push('\n');
    text
}

fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md")
}

#[test]
fn the_reference_has_the_keys_of_the_parser() {
    let document = std::fs::read_to_string(path()).unwrap();
    let begin = document.find(BEGIN).unwrap() + BEGIN.len();
    let end = document.find(END).unwrap();
    assert!(
        document[begin..end] == tables(),
        "docs/configuration.md is out of date; run: \
         cargo test -p daemon write_the_reference -- --ignored"
    );
}

/// Brings docs/configuration.md up to date.
#[test]
#[ignore = "writes docs/configuration.md"]
fn write_the_reference() {
    let document = std::fs::read_to_string(path()).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    std::fs::write(path(), format!("{before}{BEGIN}{}{END}{after}", tables())).unwrap();
}
