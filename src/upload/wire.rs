//! Counts what delivery costs on the line: payload, TLS, headers of IP and TCP, retransmissions.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::tcp_info::{TcpInfo, tcp_info};

/// All bytes so far, of connections that are closed and of the one that is open.
#[derive(Debug, Default)]
pub struct Wire {
    total: AtomicU64,
    /// A lock, because an attempt opens the connection while whoever watches it takes samples.
    open: Mutex<Option<Meter>>,
    connections: AtomicU64,
}

/// The counters of one connection, which it outlives by its own handle of the socket.
#[derive(Debug)]
struct Meter {
    number: u64,
    socket: OwnedFd,
    ip_header_bytes: u64,
    counted: u64,
}

/// Held by the connection; when it is dropped, so is the meter, after a last look.
#[derive(Debug)]
pub struct Metered {
    wire: Arc<Wire>,
    /// Of its meter: a later connection may have one by then.
    number: u64,
}

impl Wire {
    /// Counts `socket`, which talks to `peer`, until the answer is dropped. Without a handle to spare the
    /// connection goes uncounted.
    pub fn watch(self: &Arc<Self>, socket: impl AsFd, peer: IpAddr) -> Metered {
        let ip_header_bytes = if peer.is_ipv6() { 40 } else { 20 };
        self.close(None);
        let number = self.connections.fetch_add(1, Relaxed);
        *self.lock() = rustix::io::fcntl_dupfd_cloexec(socket.as_fd(), 0).ok().map(|socket| Meter {
            number,
            socket,
            ip_header_bytes,
            counted: 0,
        });
        Metered { wire: self.clone(), number }
    }

    /// Takes a sample, and gives all bytes so far.
    pub fn sample(&self) -> u64 {
        if let Some(meter) = self.lock().as_mut() {
            self.total.fetch_add(meter.advance(), Relaxed);
        }
        self.total.load(Relaxed)
    }

    /// Ends the count of the connection `number`, or of whichever there is.
    fn close(&self, number: Option<u64>) {
        let is_it = |meter: &mut Meter| number.is_none_or(|number| number == meter.number);
        if let Some(mut meter) = self.lock().take_if(is_it) {
            self.total.fetch_add(meter.advance() + meter.farewell(), Relaxed);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Meter>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.wire.close(Some(self.number));
    }
}

impl Meter {
    /// Bytes since the last time.
    fn advance(&mut self) -> u64 {
        let Some(info) = tcp_info(&self.socket) else { return 0 };
        let bytes = bytes_on_the_line(info, self.ip_header_bytes);
        let more = bytes.saturating_sub(self.counted);
        self.counted = bytes.max(self.counted);
        more
    }

    /// FIN and its acknowledgement in both directions, which come after the last look.
    fn farewell(&self) -> u64 {
        if self.counted == 0 { 0 } else { 4 * (self.ip_header_bytes + TCP_HEADER_BYTES + TIMESTAMP_BYTES) }
    }
}

/// Without what the link below IP adds, which no tariff counts.
fn bytes_on_the_line(info: TcpInfo, ip_header_bytes: u64) -> u64 {
    let options = if info.has_timestamps { TIMESTAMP_BYTES } else { 0 };
    let segments = u64::from(info.segments_sent) + u64::from(info.segments_received);
    info.bytes_sent + info.bytes_received + segments * (ip_header_bytes + TCP_HEADER_BYTES + options)
}

const TCP_HEADER_BYTES: u64 = 20;
/// The option of RFC 7323 with its padding.
const TIMESTAMP_BYTES: u64 = 12;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn headers_are_counted_for_every_segment() {
        let info = TcpInfo {
            has_timestamps: true,
            bytes_sent: 1000,
            bytes_received: 200,
            segments_sent: 5,
            segments_received: 3,
        };
        assert_eq!(bytes_on_the_line(info, 20), 1200 + 8 * 52);
        assert_eq!(bytes_on_the_line(TcpInfo { has_timestamps: false, ..info }, 40), 1200 + 8 * 60);
    }

    #[test]
    fn a_closed_connection_stays_counted_and_the_next_adds_to_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Arc::new(Wire::default());
        let mut totals = Vec::new();
        for _ in 0..2 {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, address) = listener.accept().unwrap();
            let metered = wire.watch(&client, address.ip());
            client.write_all(&[7; 10_000]).unwrap();
            server.read_exact(&mut [0; 10_000]).unwrap();
            let open = wire.sample();
            drop((client, metered));
            // The other end is told, because no handle is left.
            assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
            assert!(wire.sample() > open);
            totals.push(wire.sample());
        }
        assert!(totals[0] > 10_000 && totals[0] < 11_500, "{totals:?}");
        assert!(totals[1] > totals[0] + 10_000, "{totals:?}");
    }
}
