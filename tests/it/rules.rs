//! Rules on a running agent.

use serde_json::Value;

use crate::harness::cloud::Cloud;
use crate::harness::daemon::Home;
use crate::harness::until;
use crate::sources::exec;

#[tokio::test]
async fn a_sensor_that_goes_silent_is_told_of_without_any_reading_coming() {
    let cloud = Cloud::start().await;
    let rules = "[[rules]]\nname = 'gone'\nsilent_seconds = 1\nseverity = 'critical'\n\
        condition_expr = \"ctx.sensor_name == 'meter'\"\n";
    let home =
        Home::new(&format!("{}{rules}{}", exec("meter", "echo 1; echo 2; exec sleep 60"), cloud.section()));
    let daemon = home.start().await;
    let events = async || -> Option<Vec<Value>> {
        let items = cloud.items();
        let events: Vec<_> = items.iter().filter(|item| item["rule_name"] == "gone").cloned().collect();
        (!events.is_empty()).then_some(events)
    };
    let events = until("the event of the silent sensor", events).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["sensor_readings"][0]["value"], 2.0);
    let silent = events[0]["metadata"]["silent_seconds"].as_f64().unwrap();
    assert!((1.0..10.0).contains(&silent), "{silent}");
    daemon.stop().await;
}
