//! One connection to the broker, from CONNECT to its end.
//!
//! Messages are gathered while the socket has more, handed on when it is quiet, and acknowledged when
//! the store says so. Each connection has a client of its own, so that an acknowledgement can never
//! reach a later connection, where its packet identifier may mean another message.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::{ConnAck, Packet, Publish, RetainForwardRule, SubAck, SubscribeFilter, SubscribeReasonCode};
use rumqttc::{AckMode, AsyncClient, Event, EventLoop, IncomingPacketSizeLimit, ManualAck, MqttOptions};
use rumqttc::{NetworkOptions, SubscribeFilterInput};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::{Intake, Place, State};
use super::Source;
use super::known::{Key, Known};
use super::payload::{NotConfigured, Route};
use super::resume::{EmptySession, OUTGOING_MAX};
use super::socket::GatheringStream;
use crate::clock;
use crate::reading::{Batch, Committed};

/// A message above this size in bytes ends the connection; the broker is told so at CONNECT.
const PACKET_BYTES_MAX: u32 = 256 * 1024;
/// Acknowledgements, and outgoing packets, that the client sends with one write.
const REQUESTS_PER_WRITE_MAX: usize = 256;
/// Acknowledgements that wait in the client's queue; further ones wait here.
const REQUESTS_MAX: usize = 1024;
/// For TCP and TLS and CONNACK together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// At the end of a connection: for commits under way and their acknowledgements.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// Of one connection, for topics that are not configured any more.
const UNSUBSCRIBES_MAX: u32 = 64;
/// A deeper topic has so many filters that only those without `+` are tried.
const PLUS_LEVELS_MAX: usize = 6;
/// Levels of a topic up to which `#` is tried.
const HASH_LEVELS_MAX: usize = 64;

/// Why a connection ended.
pub enum Error {
    /// The broker is not there, or refused us: try again.
    Connection(String),
    /// The pipeline or the store is gone.
    Fatal(super::Error),
}

/// Messages that wait for one commit.
struct InFlight {
    acks: Vec<ManualAck>,
    keys: Vec<Key>,
    receipt: oneshot::Receiver<Committed>,
}

struct Session<'s> {
    source: &'s Source,
    intake: &'s Intake,
    route: &'s Route<'s>,
    /// Outlives the connection, as long as the broker keeps the session.
    known: &'s mut Known,
    client: AsyncClient,
    batch: Batch,
    /// Of the messages in `batch`.
    acks: Vec<ManualAck>,
    /// Of those of them that are not stored yet.
    keys: Vec<Key>,
    in_flight: VecDeque<InFlight>,
    /// Of committed messages, waiting for room in the client's queue.
    ready: VecDeque<ManualAck>,
    /// Messages that are not acknowledged yet.
    unacknowledged: usize,
    connected: bool,
    is_leaving: bool,
    /// What the session of the broker is rid of, as messages show that it is still in there.
    unsubscribing: Unsubscribing,
}

/// Connects and receives until told to stop. `failures` is set to 0 once connected.
pub async fn run(
    source: &Source,
    intake: &Intake,
    route: &Route<'_>,
    known: &mut Known,
    failures: &mut u32,
) -> Result<(), Error> {
    let (client, mut event_loop) = connect(source, intake)?;
    let mut session = Session {
        source,
        intake,
        route,
        known,
        client,
        batch: Batch::default(),
        acks: Vec::new(),
        keys: Vec::new(),
        in_flight: VecDeque::new(),
        ready: VecDeque::new(),
        unacknowledged: 0,
        connected: false,
        is_leaving: false,
        unsubscribing: Unsubscribing::default(),
    };
    let mut stop = pin!(intake.stop.cancelled());
    loop {
        session.send_ready();
        let event = {
            // Polled to its end, never dropped half-way: what it has read stays read.
            let mut poll = pin!(event_loop.poll());
            loop {
                tokio::select! {
                    biased;
                    () = &mut stop => break None,
                    event = &mut poll, if !session.batch.is_full() => break Some(event),
                    committed = receipt(&mut session.in_flight) => session.acknowledge(committed)?,
                    place = intake.place(), if session.has_something() => {
                        session.hand_over(place.map_err(Error::Fatal)?);
                    }
                }
            }
        };
        match event {
            Some(Ok(Event::Incoming(Packet::ConnAck(connack)))) => {
                // From here on the store would be asked to save after every packet.
                event_loop.options.clear_session_store();
                session.connected(&connack, std::mem::take(failures))?;
            }
            Some(Ok(Event::Incoming(packet))) => session.receive(packet),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                timeout(FAREWELL_TIMEOUT, session.settle()).await.unwrap_or(Ok(()))?;
                return Err(Error::Connection(error.to_string()));
            }
            None => break,
        }
    }
    // What the last poll holds is not taken in any more; the broker keeps it for the next session.
    timeout(FAREWELL_TIMEOUT, session.farewell(&mut event_loop)).await.unwrap_or(Ok(()))
}

impl Session<'_> {
    fn connected(&mut self, connack: &ConnAck, failures: u32) -> Result<(), Error> {
        self.connected = true;
        self.subscribe()?;
        if !connack.session_present {
            self.known.forget();
        }
        self.intake.status.set(State::Connected);
        tracing::info!(
            broker = %self.source.host,
            port = self.source.port,
            session_kept = connack.session_present,
            failed_attempts = failures,
            "mqtt: connected"
        );
        Ok(())
    }

    fn subscribe(&self) -> Result<(), Error> {
        let filters = self.source.topics.iter().map(|topic| {
            let mut filter = SubscribeFilter::new(topic.filter.clone(), topic.qos);
            // A topic that the kept session knows already does not send its retained message again.
            filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
            SubscribeFilterInput::from(filter)
        });
        self.client.try_subscribe_many(filters).map_err(|error| Error::Connection(error.to_string()))
    }

    fn receive(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.take_in(&publish),
            Packet::PubRel(release) => self.known.released(release.pkid),
            Packet::SubAck(suback) => {
                self.check_subscriptions(&suback);
                self.unsubscribing.may_ask = true;
            }
            Packet::UnsubAck(_) => self.unsubscribing.may_ask = true,
            _ => {}
        }
    }

    fn take_in(&mut self, publish: &Publish) {
        if publish.qos == QoS::AtMostOnce {
            self.read(publish);
            return;
        }
        let key = Key::of(publish);
        if !self.known.holds(publish, key, publish.qos == QoS::ExactlyOnce) {
            self.read(publish);
            self.keys.push(key);
        }
        if let Some(ack) = self.client.prepare_ack(publish) {
            self.unacknowledged += 1;
            self.acks.push(ack);
        }
    }

    /// Messages can be without any reading, such as an empty array or one of a topic that is not
    /// configured any more; unless they are acknowledged too they fill the window for good.
    fn has_something(&self) -> bool {
        !self.batch.is_empty() || !self.acks.is_empty()
    }

    /// Reads the payload; what cannot be read is counted, and acknowledged like the rest, or the broker
    /// would send it for ever.
    fn read(&mut self, publish: &Publish) {
        let read = self.route.read(&mut self.batch, &publish.topic, &publish.payload, clock::boot_seconds());
        if let Err(NotConfigured(name)) = read {
            self.unsubscribe(name);
        }
    }

    /// Has the broker forget the subscription that brought a message of the topic `name`: one of a device
    /// that is not configured any more, in a session that the broker kept. Which filter that was nobody
    /// remembers, so it is asked to forget every one that matches; none of them is configured.
    fn unsubscribe(&mut self, name: &str) {
        if self.is_leaving || !self.unsubscribing.may_ask || self.unsubscribing.asked >= UNSUBSCRIBES_MAX {
            return;
        }
        // Without room in the client's queue the next such message asks.
        if self.client.try_unsubscribe_many(filters_of(name)).is_ok() {
            self.unsubscribing.may_ask = false;
            self.unsubscribing.asked += 1;
            if self.unsubscribing.asked == 1 {
                tracing::warn!(
                    broker = %self.source.host,
                    "mqtt: the broker still sends topics that no device is configured for; they are counted as \
                     refused and unsubscribed"
                );
            }
        }
    }

    fn hand_over(&mut self, place: Place<'_>) {
        let mut batch = std::mem::take(&mut self.batch);
        if !self.acks.is_empty() {
            let (sender, receipt) = oneshot::channel();
            batch.receipt = Some(sender);
            let keys = std::mem::take(&mut self.keys);
            batch.messages = self.known.list(&keys);
            self.in_flight.push_back(InFlight { acks: std::mem::take(&mut self.acks), keys, receipt });
        }
        // Half the window is used up: acknowledge it while the other half keeps coming.
        let half_used = self.unacknowledged * 2 >= usize::from(self.source.receive_maximum);
        batch.urgent = self.is_leaving || half_used;
        self.intake.count(&batch);
        place.put(batch);
    }

    fn acknowledge(&mut self, committed: Option<InFlight>) -> Result<(), Error> {
        let committed = committed.ok_or_else(|| {
            // Not acknowledged: the broker sends it again with the next connection.
            Error::Fatal(super::Error::Failed("a batch was not stored".to_owned()))
        })?;
        self.unacknowledged -= committed.acks.len();
        committed.keys.into_iter().for_each(|key| self.known.learn(key));
        self.ready.extend(committed.acks);
        self.send_ready();
        Ok(())
    }

    /// Queues acknowledgements as long as the client takes them. A full queue is back-pressure and no
    /// failure: the client works it off while it is polled, and then this is called again.
    fn send_ready(&mut self) {
        while let Some(ack) = self.ready.pop_front() {
            if self.client.try_manual_ack(ack.clone()).is_err() {
                self.ready.push_front(ack);
                return;
            }
        }
    }

    fn check_subscriptions(&self, suback: &SubAck) {
        for (topic, code) in self.source.topics.iter().zip(&suback.return_codes) {
            if !matches!(code, SubscribeReasonCode::Success(_)) {
                tracing::error!(topic = topic.filter, ?code, "mqtt: the broker refused a subscription; check its access rules");
                self.intake.status.set_error(format!("subscription to {} refused: {code:?}", topic.filter));
            }
        }
    }

    /// Hands over what was read and waits for its commit.
    async fn settle(&mut self) -> Result<(), Error> {
        // Even an empty one, if commits are under way: nothing follows that could share them.
        if self.has_something() || !self.in_flight.is_empty() {
            let place = self.intake.place().await;
            self.is_leaving = true;
            self.hand_over(place.map_err(Error::Fatal)?);
        }
        while !self.in_flight.is_empty() {
            let committed = receipt(&mut self.in_flight).await;
            self.acknowledge(committed)?;
        }
        Ok(())
    }

    /// Settles, acknowledges and says goodbye.
    async fn farewell(&mut self, event_loop: &mut EventLoop) -> Result<(), Error> {
        self.settle().await?;
        let has_read = !self.connected || self.has_read_all(event_loop).await;
        if has_read && self.client.disconnect().await.is_ok() {
            while event_loop.poll().await.is_ok() {}
        }
        Ok(())
    }

    /// Sends every acknowledgement, and waits until the broker has read them; false when the connection
    /// ends before.
    ///
    /// To close while the broker still sends resets the connection, and a broker then loses what it has
    /// not read yet: mosquitto 2.0.11 lost 22 of 36 acknowledgements, and sent their messages again. It
    /// works off packets in order, so its answer to a subscription that it has already says enough.
    async fn has_read_all(&mut self, event_loop: &mut EventLoop) -> bool {
        let mut asked = false;
        loop {
            self.send_ready();
            // A full queue has room after some polls.
            asked = asked || (self.ready.is_empty() && self.subscribe().is_ok());
            match event_loop.poll().await {
                Ok(Event::Incoming(Packet::SubAck(_))) if asked => return true,
                // A message is not taken in any more; the broker keeps it.
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}

/// One UNSUBSCRIBE at a time, so that a flood of old messages cannot fill the client's queue.
#[derive(Debug, Default)]
struct Unsubscribing {
    /// Nothing that was asked of the broker is unanswered.
    may_ask: bool,
    asked: u32,
}

/// The topic filters that match the topic `name`.
fn filters_of(name: &str) -> Vec<String> {
    let levels: Vec<&str> = name.split('/').collect();
    let variants = |count: usize| {
        let masks = if count <= PLUS_LEVELS_MAX { 1_u32 << count } else { 1 };
        let levels = &levels[..count];
        (0..masks).map(move |mask| {
            let level = |(at, level): (usize, &&'_ str)| {
                if at < PLUS_LEVELS_MAX && mask & 1 << at != 0 { "+".to_owned() } else { (*level).to_owned() }
            };
            levels.iter().enumerate().map(level).collect::<Vec<_>>().join("/")
        })
    };
    let mut filters: Vec<String> = variants(levels.len()).collect();
    filters.push("#".to_owned());
    for count in 1..=levels.len().min(HASH_LEVELS_MAX) {
        filters.extend(variants(count).map(|filter| format!("{filter}/#")));
    }
    filters
}

/// The oldest batch under way, once it is committed; `None` when it will not
/// be. Never resolves while none is under way.
async fn receipt(in_flight: &mut VecDeque<InFlight>) -> Option<InFlight> {
    let Some(oldest) = in_flight.front_mut() else { return std::future::pending().await };
    let committed = (&mut oldest.receipt).await.is_ok();
    let oldest = in_flight.pop_front().expect("it was there a moment ago");
    committed.then_some(oldest)
}

fn connect(source: &Source, intake: &Intake) -> Result<(AsyncClient, EventLoop), Error> {
    let mut options = MqttOptions::new(source.client_id(intake), (source.host.as_str(), source.port));
    let session_expiry_seconds = u32::try_from(source.session_expiry.as_secs()).unwrap_or(u32::MAX);
    options
        .set_keep_alive(u16::try_from(source.keep_alive.as_secs()).unwrap_or(u16::MAX))
        .set_clean_start(false)
        .set_session_expiry_interval(Some(session_expiry_seconds))
        .set_session_store(EmptySession { session_expiry_seconds })
        .set_receive_maximum(Some(source.receive_maximum))
        .set_max_packet_size(Some(PACKET_BYTES_MAX))
        .set_incoming_packet_size_limit(IncomingPacketSizeLimit::Bytes(PACKET_BYTES_MAX))
        // Nothing is published; without a limit the client keeps 16 MB of slots for 65,535 messages.
        .set_outgoing_inflight_upper_limit(OUTGOING_MAX)
        .set_ack_mode(AckMode::Manual)
        .set_max_request_batch(REQUESTS_PER_WRITE_MAX)
        .set_read_batch_size(intake.memory.plan.mqtt_messages);
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_socket_connector(|host, network| async move {
        rumqttc::default_socket_connect(host, network).await.map(GatheringStream::new)
    });
    source.introduce(&mut options, super::SECTION).map_err(Error::Connection)?;
    Ok(AsyncClient::builder(options).capacity(REQUESTS_MAX).build())
}

#[cfg(test)]
mod tests {
    use rumqttc::mqttbytes::{matches, valid_filter};

    use super::*;

    #[test]
    fn the_filters_of_a_topic_are_all_that_match_it() {
        let mut filters = filters_of("a/b");
        filters.sort();
        assert_eq!(filters, ["#", "+/#", "+/+", "+/+/#", "+/b", "+/b/#", "a/#", "a/+", "a/+/#", "a/b", "a/b/#"]);
        for name in ["a", "/a", "a//b/", "1/2/3/4/5/6/7/8", &"x/".repeat(500)] {
            let filters = filters_of(name);
            assert!(filters.len() <= 200, "{}", filters.len());
            assert!(filters.iter().all(|filter| valid_filter(filter) && matches(name, filter)), "{filters:?}");
        }
    }
}
