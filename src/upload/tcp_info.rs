//! What the kernel counts of a TCP connection. One of the files with `unsafe`: rustix has no `TCP_INFO`,
//! and the libc crate's `tcp_info` ends before the counters of bytes.
#![allow(unsafe_code, reason = "getsockopt(TCP_INFO) has no safe wrapper")]

use std::os::fd::{AsFd, AsRawFd};

/// The counters of one connection so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// TCP timestamps are on, which makes each header longer.
    pub has_timestamps: bool,
    /// Payload that was sent, retransmissions included.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Segments of any kind, those without payload included.
    pub segments_sent: u32,
    pub segments_received: u32,
}

/// Asks the kernel; `None` when `socket` is no TCP socket, or the kernel is too old to count (before 4.6).
pub fn tcp_info(socket: impl AsFd) -> Option<TcpInfo> {
    let mut answer = Answer([0; ANSWER_WORDS]);
    let mut length = libc::socklen_t::try_from(size_of::<Answer>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `answer`, and says in `length`
    // how many there are; any bytes make a valid `Answer`. The descriptor is open as long as `socket` is.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut answer).cast(),
            &raw mut length,
        )
    };
    if status != 0 || (length as usize) < SEGMENTS_IN + 4 {
        return None;
    }
    // Before 4.19 there is only what was acknowledged, which is without retransmissions.
    let sent = if length as usize >= BYTES_SENT + 8 { BYTES_SENT } else { BYTES_ACKED };
    Some(TcpInfo {
        has_timestamps: answer.byte(OPTIONS) & TIMESTAMPS != 0,
        bytes_sent: answer.long(sent),
        bytes_received: answer.long(BYTES_RECEIVED),
        segments_sent: answer.word(SEGMENTS_OUT),
        segments_received: answer.word(SEGMENTS_IN),
    })
}

/// Room for `struct tcp_info` of include/uapi/linux/tcp.h, which grows at its end only; 248 bytes in 6.12.
#[repr(C)]
struct Answer([u64; ANSWER_WORDS]);

impl Answer {
    fn byte(&self, offset: usize) -> u8 {
        self.0[offset / 8].to_ne_bytes()[offset % 8]
    }

    fn word(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|index| self.byte(offset + index)))
    }

    fn long(&self, offset: usize) -> u64 {
        self.0[offset / 8]
    }
}

const ANSWER_WORDS: usize = 32;
/// Offsets in bytes: `tcpi_options`, `tcpi_bytes_acked`, `tcpi_bytes_received`, `tcpi_segs_out`,
/// `tcpi_segs_in` and `tcpi_bytes_sent`.
const OPTIONS: usize = 5;
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
const SEGMENTS_OUT: usize = 136;
const SEGMENTS_IN: usize = 140;
const BYTES_SENT: usize = 200;
/// `TCPI_OPT_TIMESTAMPS`.
const TIMESTAMPS: u8 = 1;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn payload_is_counted_to_the_byte_in_both_directions() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[7; 100_000]).unwrap();
        server.read_exact(&mut [0; 100_000]).unwrap();
        server.write_all(&[7; 2_500]).unwrap();
        client.read_exact(&mut [0; 2_500]).unwrap();
        let info = tcp_info(&client).unwrap();
        assert_eq!((info.bytes_sent, info.bytes_received), (100_000, 2_500));
        assert!(info.segments_sent >= 3 && info.segments_received >= 2, "{info:?}");
    }

    #[test]
    fn another_kind_of_socket_has_no_counters() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(tcp_info(&socket), None);
    }
}
