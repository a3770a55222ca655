//! A line to the broker that breaks again and again.

use tokio::io::{AsyncReadExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Lets connections through to the broker until it is dropped, and cuts each one after a random number of bytes
/// that the broker has sent, with what is on its way in it.
pub struct Relay {
    pub port: u16,
    _server: JoinSet<()>,
}

impl Relay {
    pub async fn to(broker_port: u16, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let (mut lines, mut random) = (JoinSet::new(), fastrand::Rng::with_seed(seed));
            while let Ok((mut agent, _)) = listener.accept().await {
                let bytes_max = random.u64(8_000..80_000);
                lines.spawn(async move {
                    let Ok(mut broker) = TcpStream::connect(("127.0.0.1", broker_port)).await else { return };
                    let (mut from_agent, mut to_agent) = agent.split();
                    let (from_broker, mut to_broker) = broker.split();
                    let mut from_broker = from_broker.take(bytes_max);
                    tokio::select! {
                        _ = copy(&mut from_agent, &mut to_broker) => {}
                        _ = copy(&mut from_broker, &mut to_agent) => {}
                    }
                });
            }
        });
        Self { port, _server: server }
    }
}
