//! A client that publishes, and knows which of its messages the broker acknowledged.

use std::time::Duration;

use rumqttc::{AsyncClient, MqttOptions, PublishOptions, mqttbytes::QoS};
use tokio::task::JoinSet;

use super::broker::Broker;
use super::soon;

/// Connects by itself, again and again while the broker is away.
pub struct Publisher {
    client: AsyncClient,
    _event_loop: JoinSet<()>,
}

impl Publisher {
    pub fn new(broker: &Broker) -> Self {
        let id = format!("publisher-{:x}", fastrand::u64(..));
        let mut options = MqttOptions::new(id, ("127.0.0.1", broker.publish_port));
        options.set_clean_start(true);
        if let Some((user, password)) = &broker.login {
            options.set_credentials(user.clone(), password.clone());
        }
        let (client, mut event_loop) = AsyncClient::builder(options).capacity(CAPACITY).build();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                if event_loop.poll().await.is_err() {
                    tokio::time::sleep(RECONNECT_INTERVAL).await;
                }
            }
        });
        Self { client, _event_loop: tasks }
    }

    /// Publishes, and returns whether the broker acknowledged it; at QoS 0 whether it was sent.
    /// Waits as long as the broker is away.
    pub async fn try_publish(&self, topic: &str, payload: impl Into<Vec<u8>>, qos: QoS) -> bool {
        let options = PublishOptions::new(qos);
        let notice = self.client.publish_tracked(topic, payload.into(), options).await.unwrap();
        notice.wait_completion_async().await.is_ok()
    }

    /// Publishes until the broker has acknowledged it; so it may arrive more than once.
    pub async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>, qos: QoS) {
        let payload = payload.into();
        let publish = async { while !self.try_publish(topic, payload.clone(), qos).await {} };
        soon("the broker acknowledges a message", publish).await;
    }

    /// Publishes a message at QoS 1 that the broker keeps for later subscribers.
    pub async fn retain(&self, topic: &str, payload: &str) {
        let options = PublishOptions::new(QoS::AtLeastOnce).retained();
        let payload = payload.as_bytes().to_vec();
        let notice = self.client.publish_tracked(topic, payload, options).await.unwrap();
        soon("the broker acknowledges a message", notice.wait_completion_async()).await.unwrap();
    }

    /// Publishes many without waiting in between, and returns for each whether it was acknowledged.
    pub async fn publish_all(
        &self,
        messages: impl IntoIterator<Item = (String, String)>,
        qos: QoS,
    ) -> Vec<bool> {
        let mut notices = Vec::new();
        for (topic, payload) in messages {
            let options = PublishOptions::new(qos);
            notices.push(self.client.publish_tracked(topic, payload.into_bytes(), options).await.unwrap());
        }
        let mut acknowledged = Vec::with_capacity(notices.len());
        for notice in notices {
            acknowledged.push(soon("a message is settled", notice.wait_completion_async()).await.is_ok());
        }
        acknowledged
    }
}

const CAPACITY: usize = 1000;
const RECONNECT_INTERVAL: Duration = Duration::from_millis(20);
