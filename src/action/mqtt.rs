//! A message to a broker as an action. A connection is kept while events wait, and left when none does.

use std::pin::pin;
use std::time::Duration;

use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, PublishOptions};
use tokio::time::timeout;

use super::Failure;
use super::settings::Mqtt;

/// A connection to a broker.
pub struct Session {
    client: AsyncClient,
    event_loop: EventLoop,
}

/// Publishes `event` over `session`, or a new one, as the client `id`; done when the broker has it, at QoS 0 when it
/// is sent. When this fails or is dropped the session is not to be used any more.
///
/// # Errors
///
/// The broker is not there, lets nobody in, or does not take it.
pub(super) async fn publish(
    session: &mut Option<Session>,
    settings: &Mqtt,
    id: String,
    topic: String,
    event: Vec<u8>,
) -> Result<(), Failure> {
    let mut open = match session.take() {
        Some(open) => open,
        None => Session::enter(settings, id).await?,
    };
    open.publish(settings, topic, event).await?;
    *session = Some(open);
    Ok(())
}

impl Session {
    async fn enter(settings: &Mqtt, id: String) -> Result<Self, Failure> {
        let (host, port) = settings.broker.broker();
        let mut options = MqttOptions::new(id, (host, port));
        options.set_clean_start(true).set_session_expiry_interval(Some(0)).set_keep_alive(KEEP_ALIVE_SECONDS);
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(CONNECT_SECONDS_MAX);
        options.set_network_options(network);
        settings.broker.introduce(&mut options, &settings.section).map_err(Failure::passing)?;
        let (client, event_loop) = AsyncClient::builder(options).capacity(REQUESTS_MAX).build();
        let mut session = Self { client, event_loop };
        while !matches!(session.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
        Ok(session)
    }

    async fn publish(&mut self, settings: &Mqtt, topic: String, event: Vec<u8>) -> Result<(), Failure> {
        let options = PublishOptions::new(settings.qos);
        let options = if settings.retain { options.retained() } else { options };
        let notice = self.client.publish_tracked(topic, event, options).await;
        let notice = notice.map_err(|error| Failure::lasting(format!("the message is refused: {error}")))?;
        let mut settled = pin!(notice.wait_completion_async());
        loop {
            tokio::select! {
                biased;
                settled = &mut settled => {
                    return settled.map(|_| ()).map_err(|error| {
                        Failure::passing(format!("the broker does not take the message: {error}"))
                    });
                }
                // It is what settles it, so it is not dropped half-way.
                event = self.event_loop.poll() => {
                    event.map_err(|error| Failure::passing(format!("the broker: {error}")))?;
                }
            }
        }
    }

    /// Says farewell; whether that arrives changes nothing.
    pub(super) async fn leave(mut self) {
        if self.client.try_disconnect().is_ok() {
            timeout(FAREWELL_MAX, async { while self.event_loop.poll().await.is_ok() {} }).await.ok();
        }
    }

    async fn poll(&mut self) -> Result<Event, Failure> {
        self.event_loop.poll().await.map_err(|error| Failure::passing(format!("no broker: {error}")))
    }
}

/// The topic of an event. Names fill one level each: what would make more of them, or a filter, becomes `_`.
pub(super) fn topic(template: &str, rule: &str, sensor: &str) -> String {
    let level = |name: &str| -> String {
        let safe = |letter: char| if letter.is_control() || "/+#$".contains(letter) { '_' } else { letter };
        if name.is_empty() { "_".to_owned() } else { name.chars().map(safe).collect() }
    };
    // A name that looks like a placeholder is one no more.
    let parts: Vec<_> =
        template.split("{rule}").map(|part| part.replace("{sensor}", &level(sensor))).collect();
    parts.join(&level(rule))
}

const KEEP_ALIVE_SECONDS: u16 = 60;
const CONNECT_SECONDS_MAX: u64 = 10;
const REQUESTS_MAX: usize = 4;
const FAREWELL_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fills_one_level_of_a_topic_and_nothing_else() {
        for (template, rule, sensor, expected) in [
            ("alarms", "hot", "oven", "alarms"),
            ("alarms/{rule}/{sensor}", "hot", "oven", "alarms/hot/oven"),
            ("{sensor}/{sensor}", "hot", "a/b", "a_b/a_b"),
            ("a/{rule}/{sensor}", "#", "+/$SYS\n", "a/_/___SYS_"),
            ("a/{rule}", "{sensor}", "x", "a/{sensor}"),
            ("a/{sensor}", "x", "", "a/_"),
        ] {
            assert_eq!(topic(template, rule, sensor), expected);
        }
    }
}
