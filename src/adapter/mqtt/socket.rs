//! A TCP stream that gathers small writes and sends them before it reads.
//!
//! rumqttc-next 0.34 writes and flushes each manual acknowledgement by itself: a system call, and over
//! loopback or a radio a packet, for four bytes. The client always turns to reading before it sleeps,
//! so sending at that moment delays nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Gathered bytes are sent at the latest when there are this many.
const GATHERED_BYTES_MAX: usize = 4096;

/// See the top of this file.
#[derive(Debug)]
pub struct GatheringStream {
    inner: TcpStream,
    gathered: Vec<u8>,
    /// So many of the gathered bytes are sent already.
    sent: usize,
}

impl GatheringStream {
    pub fn new(inner: TcpStream) -> Self {
        Self { inner, gathered: Vec::new(), sent: 0 }
    }

    fn send_gathered(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let rest = &self.gathered[self.sent..];
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.gathered.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for GatheringStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // When the socket takes no more, reading goes on: the peer may wait for that.
        if let Poll::Ready(result) = self.send_gathered(context) {
            result?;
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for GatheringStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() + bytes.len() > GATHERED_BYTES_MAX {
            ready!(self.send_gathered(context))?;
        }
        if bytes.len() > GATHERED_BYTES_MAX {
            return Pin::new(&mut self.inner).poll_write(context, bytes);
        }
        self.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Sends nothing by itself: the next read does.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send_gathered(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl Drop for GatheringStream {
    fn drop(&mut self) {
        // The last packet is a DISCONNECT, after which nobody reads. Whether it arrives is not
        // waited for: the broker notices the closed connection as well.
        self.inner.try_write(&self.gathered[self.sent..]).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (GatheringStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (GatheringStream::new(stream), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn small_writes_leave_together_before_the_next_read() {
        let (mut stream, mut peer) = pair().await;
        for _ in 0..3 {
            stream.write_all(b"ack.").await.unwrap();
            stream.flush().await.unwrap();
        }
        assert_eq!(peer.try_read(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut received = [0; 12];
        let mut answer = [0; 2];
        let (read, _) = tokio::join!(stream.read_exact(&mut answer), async {
            peer.read_exact(&mut received).await.unwrap();
            peer.write_all(b"ok").await.unwrap();
        });
        read.unwrap();
        assert_eq!((&received, &answer), (b"ack.ack.ack.", b"ok"));
    }

    #[tokio::test]
    async fn a_write_larger_than_the_buffer_keeps_its_place() {
        let (mut stream, mut peer) = pair().await;
        let large = vec![b'x'; 3 * GATHERED_BYTES_MAX];
        let mut received = Vec::new();
        let write = async {
            stream.write_all(b"first").await.unwrap();
            stream.write_all(&large).await.unwrap();
            stream.write_all(b"last").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        tokio::join!(write, async { peer.read_to_end(&mut received).await.unwrap() });
        assert_eq!(received.len(), 5 + large.len() + 4);
        assert!(received.starts_with(b"firstx") && received.ends_with(b"xlast"));
    }

    #[tokio::test]
    async fn what_is_gathered_leaves_when_the_stream_is_dropped() {
        let (mut stream, mut peer) = pair().await;
        stream.write_all(b"bye").await.unwrap();
        drop(stream);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"bye");
    }
}
