//! CPython, asked by tests whose answers it knows exactly.

use std::io::Write;
use std::process::{Command, Stdio};

/// What `script` prints of `input`.
pub fn answers(script: &str, input: String) -> String {
    let mut python = Command::new("python3")
        .args(["-X", "utf8", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs; install it with: apt-get install python3");
    // All of it fits into neither pipe, so the answers are read while this thread writes.
    let mut stdin = python.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
