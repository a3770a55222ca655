//! The daemon and its tools meet a damaged database, or none where one was: each start ends ready, each loss is
//! told, and nothing that can be read is lost.

mod gone;
mod harm;
mod killed;
mod quarantine;
mod repair;

use serde_json::Value;

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, Home};
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::soon;
use crate::http_ingest::Door;

/// A daemon that took values in and delivered none of them, stopped in order; every post is one block.
struct Site {
    cloud: Cloud,
    door: Door,
    home: Home,
}

impl Site {
    async fn with_backlog() -> Self {
        let cloud = Cloud::behaving(Behaviour { fail: Some(503), ..Behaviour::default() }).await;
        let door = Door::new();
        let home = Home::new(&format!("{}{}{}", door.section(), cloud.section(), EAGER));
        let site = Self { cloud, door, home };
        let daemon = site.home.start().await;
        site.door.open(&daemon).await;
        for post in 0..POSTS {
            site.post(post).await;
        }
        daemon.stop().await;
        site
    }

    async fn post(&self, post: u32) {
        self.door.post_values(post * PER_POST..(post + 1) * PER_POST).await;
    }

    /// Lets the endpoint take everything, and waits for what `posts` held and the gap of `lost` items.
    async fn delivers(&self, posts: impl Iterator<Item = u32>, lost: u64) {
        self.cloud.behave(Behaviour::default());
        let values: Vec<u32> = posts.flat_map(|post| post * PER_POST..(post + 1) * PER_POST).collect();
        self.cloud.until_values(&values).await;
        let gap = self.cloud.until_item("the gap", |item| is_gap(item, "salvage")).await;
        assert_eq!(gap["metadata"]["count"], lost, "{gap}");
        let arrived = self.cloud.items().iter().filter(|item| item["sensor_name"] == "s").count();
        assert_eq!(arrived, values.len(), "nothing comes twice");
        assert_eq!(self.cloud.endpoint.receiver.totals().borrow().differing, 0);
    }

    fn quarantined(&self) -> Vec<String> {
        quarantine::folders(&self.home.state_dir())
    }
}

fn is_gap(item: &Value, reason: &str) -> bool {
    item["rule_name"] == "pyvorin.gap" && item["metadata"]["reason"] == reason
}

/// The records of the black box, as it prints them.
async fn blackbox(home: &Home) -> Vec<Value> {
    let mut command = home.command();
    let print = command.args(["blackbox", "--json", "--config", "config.toml"]).output();
    let output = soon("it prints", print).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn salvages(home: &Home) -> Vec<String> {
    let is_salvage = |record: &Value| record["what"] == "salvaged";
    let records = blackbox(home).await.into_iter().filter(is_salvage);
    records.map(|record| record["detail"].as_str().unwrap().to_owned()).collect()
}

fn errors(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| line.contains("ERROR")).count()
}

#[tokio::test]
async fn a_database_that_is_damaged_at_the_start_is_salvaged_and_its_loss_is_told_everywhere() {
    let site = Site::with_backlog().await;
    let database = harm::database(&site.home);
    harm::flip_block(&database, 3);
    harm::flip_header(&database);
    let daemon = site.home.start().await;
    let notified = daemon.notifications();
    let place = |text: &str| notified.iter().position(|message| message.contains(text));
    assert!(place("EXTEND_TIMEOUT_USEC=") < place("READY=1"), "{notified:?}");
    assert!(place("EXTEND_TIMEOUT_USEC=").is_some(), "{notified:?}");

    let told = daemon.says("the database was damaged and has been salvaged").await;
    assert!(told.contains("ERROR") && told.contains(&format!("items_lost={PER_POST}")), "{told}");
    let salvage = &daemon.health().await["store"]["salvage"];
    assert_eq!(salvage["items_lost"], PER_POST, "{salvage}");
    assert_eq!(salvage["folder"], "quarantine/000001", "{salvage}");
    site.delivers((0..POSTS).filter(|post| *post != 3), u64::from(PER_POST)).await;
    daemon.stop().await;
    let told = salvages(&site.home).await;
    assert!(
        told.len() == 1 && told[0].starts_with("20 items lost in 1 blocks; quarantine/000001; "),
        "{told:?}"
    );

    // What was told stays on the health page, and is not told again.
    let daemon = site.home.start().await;
    assert_eq!(daemon.health().await["store"]["salvage"]["items_lost"], PER_POST);
    assert_eq!(errors(&daemon), 0, "{}", daemon.log());
    daemon.stop().await;
    assert_eq!(salvages(&site.home).await.len(), 1);
}

#[tokio::test]
async fn a_block_that_is_found_damaged_while_the_daemon_runs_costs_one_restart_and_no_other_block() {
    let site = Site::with_backlog().await;
    harm::flip_block(&harm::database(&site.home), 5);
    let mut daemon = site.home.spawn();
    assert_eq!(daemon.wait_exit().await.code, Some(1), "{}", daemon.log());
    assert!(daemon.log().contains("the store failed"), "{}", daemon.log());
    let last = blackbox(&site.home).await.pop().unwrap();
    assert_eq!(last["what"], "failed", "{last}");
    assert!(last["detail"].as_str().unwrap().contains("damaged"), "{last}");

    let daemon = site.home.start().await;
    site.delivers((0..POSTS).filter(|post| *post != 5), u64::from(PER_POST)).await;
    // It goes on as if nothing had been.
    site.door.open(&daemon).await;
    site.post(POSTS).await;
    site.cloud.until_values(&[POSTS * PER_POST]).await;
    daemon.stop().await;
    let daemon = site.home.start().await;
    assert_eq!(errors(&daemon), 0, "{}", daemon.log());
    daemon.stop().await;
    assert_eq!(site.quarantined(), ["000001"]);
}

const POSTS: u32 = 10;
const PER_POST: u32 = 20;
const EAGER: &str = crate::harness::daemon::EAGER_STORE;
