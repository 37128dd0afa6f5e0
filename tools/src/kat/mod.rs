//! `culvert kat`: answers known-answer requests, one JSON object a line, through the code that the gateway runs.
//!
//! Each table of operations is a module: `esp` has the dataplane's, `ike` the key exchange's. An operation takes a `Request` and gives the
//! fields of its answer, or a `Fault`; reading lines, `id`, `ok` and `error` are done here for all.

mod esp;
mod ike;
mod request;

use std::io::{self, BufRead, Write};

use serde_json::{Map, Value, json};

use crate::Failure;
use request::{Fault, Request};

/// The fields of an answer besides `id` and `ok`.
type Answer = Map<String, Value>;

/// One operation.
struct Operation {
    name: &'static str,
    /// What it takes as `alg`, `prf` or `group`, for `--list`.
    algorithms: fn() -> Vec<&'static str>,
    run: fn(&Request<'_>) -> Result<Answer, Fault>,
}

/// Every table.
const TABLES: &[&[Operation]] = &[esp::OPERATIONS, ike::OPERATIONS];

/// Arguments of `culvert kat`.
#[derive(clap::Args)]
pub struct Args {
    /// Prints the operations, their algorithms and engines, and reads nothing
    #[arg(long)]
    list: bool,
}

/// Runs the command on standard input and output.
///
/// # Errors
/// When standard input cannot be read or standard output not be written.
pub fn command(args: &Args) -> Result<(), Failure> {
    let output = io::stdout().lock();
    if args.list {
        return Ok(list(output)?);
    }
    Ok(run(io::stdin().lock(), output)?)
}

/// Answers every line of `input` with one line on `output`, flushed at once.
///
/// # Errors
/// Of reading and writing only: whatever a request says, it gets an answer.
pub fn run(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? != 0 {
        let answer = answer(&line);
        line.clear();
        serde_json::to_writer(&mut output, &answer)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

/// Writes what there is.
fn list(mut output: impl Write) -> io::Result<()> {
    for operation in operations() {
        let algorithms = (operation.algorithms)().join(" ");
        writeln!(output, "{:<14} {algorithms}", operation.name)?;
    }
    output.flush()
}

fn operations() -> impl Iterator<Item = &'static Operation> {
    TABLES.iter().copied().flatten()
}

fn answer(line: &[u8]) -> Value {
    let fields: Map<String, Value> = match serde_json::from_slice(line) {
        Ok(fields) => fields,
        Err(_) => return json!({ "id": null, "ok": false, "error": Fault::Malformed.name() }),
    };
    let id = fields.get("id").cloned().unwrap_or(Value::Null);
    match perform(&Request::new(&fields)) {
        Ok(mut answer) => {
            answer.insert("id".to_owned(), id);
            answer.insert("ok".to_owned(), Value::Bool(true));
            Value::Object(answer)
        }
        Err(fault) => json!({ "id": id, "ok": false, "error": fault.name() }),
    }
}

fn perform(request: &Request<'_>) -> Result<Answer, Fault> {
    let name = request.text("op")?;
    let operation =
        operations().find(|operation| operation.name == name).ok_or(Fault::Unsupported)?;
    (operation.run)(request)
}

#[cfg(test)]
mod tests;
