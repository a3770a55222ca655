//! A line to the broker that can be cut.

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Lets connections through to the broker until it is dropped.
pub struct Relay {
    pub port: u16,
    cuts: watch::Sender<u32>,
    _server: JoinSet<()>,
}

impl Relay {
    pub async fn to(broker_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = watch::Sender::new(0);
        let watched = cuts.clone();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((mut agent, _)) = listener.accept().await {
                let mut cut = watched.subscribe();
                lines.spawn(async move {
                    let Ok(mut broker) = TcpStream::connect(("127.0.0.1", broker_port)).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut agent, &mut broker) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, cuts, _server: server }
    }

    /// Ends all connections at once, with what is on its way in them.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}
