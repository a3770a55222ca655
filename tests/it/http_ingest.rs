//! Readings POSTed to the real daemon.

use std::net::{Ipv4Addr, SocketAddr};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, EAGER_STORE, Home, exchange};
use crate::harness::process::free_port;
use crate::harness::{soon, stored};

/// A `[ingest.http]` section with one device, and where it will listen.
pub struct Door {
    pub address: SocketAddr,
}

impl Door {
    pub fn new() -> Self {
        Self { address: (Ipv4Addr::LOCALHOST, free_port()).into() }
    }

    pub fn section(&self) -> String {
        let port = self.address.port();
        format!(
            "[ingest.http]\nport = {port}\ntoken = 'door-token'\nbody_max_bytes = 65536\n\
             [[sensors.devices]]\nname = 'gateway'\ningest_type = 'http'\nunit = 'C'\n"
        )
    }

    /// Waits until the daemon listens there.
    pub async fn open(&self, daemon: &Daemon) {
        let open = |health: &Value| health["ingest"]["adapters_connected"].to_string().contains("http");
        daemon.health_shows("the http source listens", open).await;
    }

    /// Posts `body`, and returns the status and the answer.
    pub async fn post(&self, body: &str) -> (u16, Value) {
        self.post_with("door-token", body).await
    }

    /// Posts readings of sensor `s` with these values, which must all be taken.
    pub async fn post_values(&self, values: impl IntoIterator<Item = u32>) {
        let readings: Vec<_> =
            values.into_iter().map(|value| json!({"sensor_name": "s", "value": value})).collect();
        let (status, answer) = self.post(&json!(readings).to_string()).await;
        assert_eq!((status, &answer["accepted"]), (200, &json!(readings.len())), "{answer}");
    }

    async fn post_with(&self, token: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!(
            "POST /ingest HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let (status, answer) = soon("the POST is answered", exchange(self.address, &request)).await.unwrap();
        (status, serde_json::from_str(&answer).unwrap_or(Value::Null))
    }
}

#[tokio::test]
async fn an_answer_of_200_means_the_reading_is_in_the_store() {
    let door = Door::new();
    // The default commit interval: the answer is to wait for the commit, not to be lucky.
    let home = Home::new(&door.section());
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    for value in 0..5 {
        door.post_values([value]).await;
        let values = stored::values(&home.state_dir(), &stored::LOCAL);
        assert_eq!(values.len(), value as usize + 1, "it is there when the answer is");
    }
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;
    assert_eq!(stored::values(&home.state_dir(), &stored::LOCAL), [0.0, 1.0, 2.0, 3.0, 4.0]);
}

#[tokio::test]
async fn an_object_an_array_and_json_lines_all_reach_the_endpoint() {
    let (door, cloud) = (Door::new(), Cloud::start().await);
    let home = Home::new(&format!("{}{}{EAGER_STORE}", door.section(), cloud.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    let posts = [
        r#"{"sensor_name":"gateway","value":1}"#,
        r#"[{"sensor_name":"a","value":2},{"sensor_name":"b","value":3,"unit":"V"}]"#,
        "{\"sensor_name\":\"a\",\"value\":4}\n{\"sensor_name\":\"b\",\"value\":5}\n",
    ];
    for (post, count) in posts.iter().zip([1, 2, 2]) {
        assert_eq!(door.post(post).await, (200, json!({"accepted": count, "refused": 0})));
    }
    cloud.until_values(&[1, 2, 3, 4, 5]).await;
    let items = cloud.items();
    assert_eq!(
        (&items[0]["unit"], &items[1]["unit"], &items[2]["unit"]),
        (&json!("C"), &json!(""), &json!("V"))
    );
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_refused_is_answered_with_the_reason_and_stored_nowhere() {
    let door = Door::new();
    let home = Home::new(&door.section());
    let daemon = home.start().await;
    door.open(&daemon).await;
    let good = r#"{"sensor_name":"s","value":1}"#;
    let (status, answer) = door.post_with("another-token", good).await;
    assert_eq!(status, 401);
    assert!(answer["error"].to_string().contains("token"), "{answer}");
    let (status, answer) = door.post("{\"sensor_name\":").await;
    assert_eq!(status, 400, "{answer}");
    let (status, answer) = door.post(&format!("[{}{good}]", " ".repeat(70_000))).await;
    assert_eq!(status, 413);
    assert!(answer["error"].to_string().contains("65536"), "{answer}");
    let (status, answer) = door.post(r#"[{"sensor_name":"s"},{"value":1}]"#).await;
    assert_eq!((status, &answer["reasons"]["incomplete"]), (422, &json!(2)), "{answer}");
    assert_eq!(stored::items(&home.state_dir(), &stored::LOCAL), Vec::<Value>::new());

    let (status, answer) = door.post(&format!("[{good},{{\"sensor_name\":\"s\",\"value\":\"x\"}}]")).await;
    assert_eq!((status, &answer["accepted"], &answer["refused"]), (200, &json!(1), &json!(1)), "{answer}");
    let log = daemon.stop().await;
    assert!(!log.contains("door-token") && !log.contains("another-token"), "{log}");
}
