//! Webhooks: a real receiver over TLS.

use serde_json::{Value, json};

use super::{daemon, daemon_in, fire, outcome};
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::endpoint::{Endpoint, Pki};
use crate::harness::proxy::Proxy;
use crate::harness::stored;

/// A receiver of events. It answers as it is told, for what comes is no batch.
pub struct Hook {
    pki: Pki,
    pub endpoint: Endpoint,
}

impl Hook {
    pub async fn start(status: u16) -> Self {
        Self::behaving(Behaviour { fail: Some(status), ..Behaviour::default() }).await
    }

    /// Takes requests and never answers.
    pub async fn hanging() -> Self {
        Self::behaving(Behaviour { delay_seconds: 10_000.0, ..Behaviour::default() }).await
    }

    async fn behaving(behaviour: Behaviour) -> Self {
        let pki = Pki::new();
        let endpoint = Endpoint::start(&pki, behaviour).await;
        Self { pki, endpoint }
    }

    /// The action `hook`.
    pub fn action(&self, more: &str) -> String {
        let (url, ca) = (&self.endpoint.url, self.pki.ca_file());
        format!(
            "[[actions]]\nname = 'hook'\ntype = 'webhook'\nurl = '{url}?token=url-secret'\nca_file = '{}'\n\
             headers = {{ Authorization = 'Bearer header-secret' }}\n{more}",
            ca.display()
        )
    }

    /// The same, for a name that only a proxy can find.
    fn action_behind(&self, more: &str) -> String {
        self.action(&format!("with_delivery_only = false\n{more}"))
            .replace("//localhost:", "//receiver.test:")
            .replace("//127.0.0.1:", "//receiver.test:")
    }

    pub fn bodies(&self) -> Vec<Value> {
        let arrivals = self.endpoint.receiver.arrivals();
        arrivals.iter().map(|arrival| serde_json::from_str(&arrival.body).unwrap()).collect()
    }
}

#[tokio::test]
async fn an_event_is_posted_as_it_is_stored_and_no_secret_is_shown() {
    let hook = Hook::start(204).await;
    let (daemon, door, home) = daemon(&hook.action(""), "").await;
    fire(&door, "oven", 90, json!({"line": "a"})).await;
    let health = outcome(&daemon, "succeeded", 1).await;
    assert_eq!(health["actions"][0]["last_error"], Value::Null);
    let events = stored::items(&home.state_dir(), &stored::LOCAL);
    let event = events.iter().find(|item| item["rule_name"] == "hot").unwrap();
    assert_eq!(&hook.bodies()[0], event);
    let arrival = &hook.endpoint.receiver.arrivals()[0];
    assert_eq!(arrival.authorization.as_deref(), Some("Bearer header-secret"));
    assert!(arrival.idempotency_key.starts_with("pyv-action-"), "{}", arrival.idempotency_key);
    let (_, metrics) = daemon.get("/metrics").await;
    let log = daemon.stop().await;
    assert!(log.contains("an action is done action=hook rule=hot"), "{log}");
    for secret in ["url-secret", "header-secret"] {
        assert!(!format!("{log}{health}{metrics}").contains(secret));
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_under_the_same_key_and_a_refusal_is_not() {
    let hook = Hook::start(204).await;
    let first = Behaviour { status_sequence: [503, 429].into(), fail: Some(204), ..Behaviour::default() };
    hook.endpoint.receiver.behave(first);
    let (daemon, door, _home) = daemon(&hook.action(""), "").await;
    fire(&door, "oven", 90, json!({})).await;
    outcome(&daemon, "succeeded", 1).await;
    hook.endpoint.receiver.behave(Behaviour { fail: Some(400), ..Behaviour::default() });
    fire(&door, "oven", 91, json!({})).await;
    let health = outcome(&daemon, "failed", 1).await;
    let keys: Vec<_> =
        hook.endpoint.receiver.arrivals().into_iter().map(|arrival| arrival.idempotency_key).collect();
    assert_eq!(keys.len(), 4);
    assert!(keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3], "{keys:?}");
    assert_eq!(health["actions"][0]["last_error"], "the webhook answered 400 Bad Request");
    assert_eq!((&health["status"], &health["actions"][0]["started"]), (&json!("degraded"), &json!(2)));
    daemon.stop().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let hook = Hook::start(307).await;
    let (daemon, door, _home) = daemon(&hook.action(""), "").await;
    fire(&door, "oven", 90, json!({})).await;
    let health = outcome(&daemon, "failed", 1).await;
    let error = health["actions"][0]["last_error"].as_str().unwrap();
    assert!(error.contains("redirects are not followed"), "{error}");
    assert_eq!(hook.bodies().len(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_webhook_that_hangs_is_given_up_and_holds_up_nothing_else() {
    let hook = Hook::hanging().await;
    let (daemon, door, _home) = daemon(&hook.action("timeout_seconds = 0.3\nattempts = 1\n"), "").await;
    for value in 90..93 {
        fire(&door, "oven", value, json!({})).await;
    }
    let health = outcome(&daemon, "timed_out", 3).await;
    assert_eq!(health["actions"][0]["last_error"], "not done within 300ms");
    let log = daemon.stop().await;
    assert_eq!(log.matches("WARN").count(), 1, "a lasting failure is told once: {log}");
}

#[tokio::test]
async fn a_receiver_that_cannot_be_trusted_gets_nothing() {
    let (hook, other) = (Hook::start(204).await, Pki::named("another authority"));
    let action = hook
        .action("attempts = 1\n")
        .replace(&hook.pki.ca_file().display().to_string(), &other.ca_file().display().to_string());
    let (daemon, door, _home) = daemon(&action, "").await;
    fire(&door, "oven", 90, json!({})).await;
    let health = outcome(&daemon, "failed", 1).await;
    let error = health["actions"][0]["last_error"].as_str().unwrap();
    assert!(error.starts_with("no connection to the webhook") && error.contains("certificate"), "{error}");
    assert!(hook.bodies().is_empty());
    daemon.stop().await;
}

/// A proxy of the environment that nobody may ask.
const NOBODY: &str = "http://127.0.0.1:9";

#[tokio::test]
async fn a_webhook_goes_through_the_proxy_of_the_cloud_and_not_through_that_of_the_environment() {
    let hook = Hook::start(204).await;
    let tunnel = Proxy::start(Some("Basic ZWRnZTpwQHNz")).await;
    let cloud = format!("[cloud]\nproxy = 'http://edge:p%40ss@{}'\n", tunnel.address);
    let environment = [("https_proxy", NOBODY), ("HTTPS_PROXY", NOBODY)];
    let (daemon, door, _home) = daemon_in(&environment, &hook.action_behind(""), &cloud).await;
    for value in [90, 91] {
        fire(&door, "oven", value, json!({})).await;
    }
    outcome(&daemon, "succeeded", 2).await;
    assert_eq!((tunnel.tunnels(), tunnel.refused(), hook.bodies().len()), (2, 0, 2));
    let log = daemon.stop().await;
    let told = format!("webhook=receiver.test proxy={} set_by=cloud.proxy", tunnel.address);
    assert_eq!(log.matches("a webhook goes through a proxy").count(), 1, "{log}");
    assert!(log.contains(&told) && !log.contains("p%40ss") && !log.contains("p@ss"), "{log}");
}

#[tokio::test]
async fn the_environment_names_the_proxy_of_a_webhook_unless_the_configuration_says_none_and_the_log_says_so()
{
    let hook = Hook::start(204).await;
    for (cloud, succeeds) in [("", true), ("[cloud]\nproxy = 'none'\n", false)] {
        let tunnel = Proxy::start(None).await;
        let address = format!("http://{}", tunnel.address);
        let action = hook.action_behind("attempts = 1\n");
        let (daemon, door, _home) = daemon_in(&[("https_proxy", &address)], &action, cloud).await;
        fire(&door, "oven", 90, json!({})).await;
        outcome(&daemon, if succeeds { "succeeded" } else { "failed" }, 1).await;
        assert_eq!(tunnel.tunnels(), u64::from(succeeds), "{cloud}");
        let log = daemon.stop().await;
        let told = format!("proxy={} set_by=\"the environment\"", tunnel.address);
        assert_eq!(log.contains(&told), succeeds, "{log}");
    }
    assert_eq!(hook.bodies().len(), 1);
}

#[tokio::test]
async fn a_webhook_on_this_device_is_asked_without_any_proxy() {
    let hook = Hook::start(204).await;
    let tunnel = Proxy::start(None).await;
    let address = format!("http://{}", tunnel.address);
    let cloud = format!("[cloud]\nproxy = '{address}'\n");
    let (daemon, door, _home) = daemon_in(&[("https_proxy", &address)], &hook.action(""), &cloud).await;
    fire(&door, "oven", 90, json!({})).await;
    outcome(&daemon, "succeeded", 1).await;
    assert_eq!((tunnel.tunnels(), tunnel.forwarded()), (0, 0));
    daemon.stop().await;
}
