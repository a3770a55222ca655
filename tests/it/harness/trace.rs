//! What strace wrote of a program: its system calls in order, with the bytes that went in and out.

use std::collections::HashMap;

/// Follows every thread and shows every byte; its output goes to the file named next. The tracer is the
/// grandchild, so that the program keeps its process id.
pub const STRACE: [&str; 11] = [
    "strace",
    "-D",
    "-f",
    "-ttt",
    "-yy",
    "-xx",
    "-s",
    "65536",
    "-e",
    "trace=fsync,fdatasync,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64",
    "-o",
];

/// One system call. Other threads may have made theirs between its begin and its end.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// The file or the socket's addresses.
    pub target: String,
    pub bytes: Vec<u8>,
    /// Lines of the trace.
    pub begun: usize,
    pub ended: usize,
    /// Negative when it failed.
    pub result: i64,
}

/// Fails the test when there is no strace.
pub fn require_strace() {
    let version = std::process::Command::new("strace").arg("-V").output();
    assert!(version.is_ok_and(|output| output.status.success()), "strace is missing; apt-get install strace");
}

/// Whether the traced program has ended, and with it the trace.
pub fn is_complete(trace: &str) -> bool {
    let last = trace.lines().next_back();
    trace.ends_with('\n')
        && last.is_some_and(|line| line.contains("+++ exited with") || line.contains("+++ killed"))
}

/// The calls of `trace`, in the order in which they ended.
pub fn calls(trace: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        // Short thread numbers are padded.
        let Some((thread, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((_time, rest)) = rest.trim_start().split_once(' ') else { continue };
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (number, begin.to_owned()));
            continue;
        }
        let (begun, whole) = match rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, end)) => match unfinished.remove(thread) {
                Some((begun, begin)) => (begun, begin + end),
                None => continue,
            },
            None => (number, rest.to_owned()),
        };
        calls.extend(call(&whole, begun, number));
    }
    calls
}

/// Such as `fdatasync(9</var/lib/x/edge_store.db-wal>) = 0`.
fn call(text: &str, begun: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let result = result.split(' ').next()?.parse().ok()?;
    let target = target(arguments);
    Some(Call { name: name.to_owned(), target, bytes: bytes(arguments), begun, ended, result })
}

/// In text or in hexadecimal: what stands between `<` and `>` behind the descriptor; an arrow between two addresses has one too.
fn target(arguments: &str) -> String {
    let Some((_, rest)) = arguments.split_once('<') else { return String::new() };
    let end = rest.find(">,").or_else(|| rest.find(">)")).unwrap_or(rest.len());
    let target = &rest[..end];
    if target.starts_with("\\x") {
        String::from_utf8_lossy(&decode(target)).into_owned()
    } else {
        target.to_owned()
    }
}

/// Every quoted string; the paths of descriptors are not in quotes.
fn bytes(arguments: &str) -> Vec<u8> {
    arguments.split('"').skip(1).step_by(2).flat_map(decode).collect()
}

/// Bytes that are written as `\x..` each.
fn decode(text: &str) -> Vec<u8> {
    let pairs = text.split("\\x").skip(1);
    pairs.filter_map(|pair| u8::from_str_radix(pair.get(..2)?, 16).ok()).collect()
}
