//! Bytes to a server and back, on a connection in memory, in time that passes only when all wait.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, timeout};

/// Runs `future` on a clock of its own.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("it needs no descriptors").block_on(future)
}

/// Sends `input` and reads until the server closes. An input that ends with [`CLOSE`] closes the
/// client's half behind it; otherwise the client waits for as long as the server does.
pub(super) async fn exchange(
    mut client: DuplexStream,
    server: impl Future<Output = ()>,
    input: &[u8],
    within: Duration,
) -> Vec<u8> {
    let began_at = Instant::now();
    let (input, closes) = match input.strip_suffix(&[CLOSE]) {
        Some(input) => (input, true),
        None => (input, false),
    };
    let talk = async {
        // The server may have had enough before.
        client.write_all(input).await.ok();
        if closes {
            client.shutdown().await.ok();
        }
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.ok();
        output
    };
    let both = timeout(within, async { tokio::join!(talk, server).0 }).await;
    both.unwrap_or_else(|_| panic!("the server still talks after {:?}", began_at.elapsed()))
}

/// The first answer: its status and its body.
pub(super) struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// What follows it.
    pub rest: Vec<u8>,
}

/// Cuts the first answer off `output`; `None` when the server closed without one.
pub(super) fn first_answer(output: &[u8]) -> Option<Answer> {
    // Who expected to be told to go on is told, and answered afterwards.
    let output = output.strip_prefix(CONTINUE).unwrap_or(output);
    if output.is_empty() {
        return None;
    }
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("the head is whole") + 4;
    let head = str::from_utf8(&output[..end]).expect("a head is ASCII").to_ascii_lowercase();
    let status = head.strip_prefix("http/1.1 ").or_else(|| head.strip_prefix("http/1.0 "));
    let status = status.and_then(|status| status.get(..3)).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {head}"));
    let length = head.split("content-length: ").nth(1).and_then(|text| text.split("\r\n").next());
    let length = length.map_or(0, |text| text.parse().expect("a length is a number"));
    // The answer to HEAD has the length of a body that does not follow.
    let body_end = if output.len() == end { end } else { end + length };
    let body = output.get(end..body_end).map(<[u8]>::to_vec);
    // A pipelined answer stands where the body of HEAD would.
    let body = body.unwrap_or_default();
    let rest = output[(end + body.len())..].to_vec();
    Some(Answer { status, head, body, rest })
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{}: {error}", self.head))
    }
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// End of transmission: the client has said all.
const CLOSE: u8 = 4;
/// What is on the way between client and server.
pub(super) const PIPE_BYTES: usize = 16 * 1024;
