//! A golden corpus with personal data in every field that a source can fill, and a byte scan of everything that
//! leaves the agent. What is personal contains `zebra`, or is one of a few numbers.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use rumqttc::mqttbytes::QoS;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::{run, verify};
use crate::harness::broker::{Broker, Options};
use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, EAGER_STORE, Home};
use crate::harness::publisher::Publisher;
use crate::harness::stored;
use crate::http_ingest::Door;

/// Patterns without the personal part, as they stand on the health page and in the audit trail.
const POLICY: &str = "\
    [privacy]\n\
    rules = [ { sensor = 'hashed-*', action = 'hash' }, { sensor = 'dropped-*', action = 'drop' },\n\
        { sensor = 'local-*', action = 'local_only' }, { sensor = 'masked', action = 'mask' },\n\
        { sensor = 'redacted-*', action = 'redact' }, { sensor = 'home/*', action = 'hash' } ]\n\
    redact_fields = ['*:*name', 'key-*', 'door:note', 'scale-r:unit']\n\
    mask_fields = ['gps', 'scale-m:unit']\n\
    hash_fields = ['email', 'hashed-*:unit']\n\
    local_only = ['room', 'person.id', 'scale-l:unit']\n\
    drop_fields = ['ssn', 'scale-d:unit']\n";
const POLICY_OFF: &str = "[privacy]\nenabled = false\n";

/// A rule fires for every reading, one for silence, and windows gather all of them.
const STAGES: &str = "\
    [[rules]]\nname = 'always'\ncondition_expr = 'True'\nseverity = 'critical'\n\
    [[rules]]\nname = 'silent'\ncondition_expr = 'True'\nseverity = 'warning'\nsilent_seconds = 1.0\n\
    [[rules]]\nname = 'raises'\ncondition_expr = \"ctx.metadata['zzz'] > 1\"\n\
    [[windows.definitions]]\nname = 'each'\nsensor_name = '*'\nduration_seconds = 1.0\n\
    [[windows.definitions]]\nname = 'pooled'\nduration_seconds = 1.0\n";

/// What must not get out.
const PERSONAL: [&str; 3] = ["zebra", "4711.25", "7654.125"];

/// Readings as they are posted.
fn readings() -> Vec<Value> {
    let reading = |sensor: &str, value: f64, unit: &str, metadata: Value| json!({"sensor_name": sensor, "value": value, "unit": unit, "metadata": metadata});
    vec![
        reading("hashed-zebra1", 1.0, "zebra's", json!({})),
        reading("dropped-zebra2", 4711.25, "zebra-unit", json!({"x": "zebra"})),
        reading("local-zebra3", 4711.25, "zebra-unit", json!({"note": "zebra", "zebra": 1})),
        reading("redacted-zebra4", 4711.25, "zebra-unit", json!({"note": "zebra"})),
        reading(
            "masked",
            7654.125,
            "kg of zebra",
            json!({"who": "zebra", "deep": [{"who": ["zebra", {"zebra": 1}]}]}),
        ),
        reading("t1", 2.0, "C", json!({"name": "zebra", "n": [{"first_name": "zebra", "names": [1]}]})),
        reading(
            "t1",
            2.0,
            "C",
            json!({"gps": {"lat": 4711.25, "zebra": "zebra"}, "a": [[{"gps": ["zebra"]}]]}),
        ),
        reading("t1", 2.0, "C", json!({"email": "zebra@example.org", "l": [{"email": {"zebra": "zebra"}}]})),
        reading("t1", 2.0, "C", json!({"room": "zebra's", "person": {"id": "zebra", "age": 1}})),
        reading("t1", 2.0, "C", json!({"ssn": "zebra", "other": "zebra"})),
        reading("t1", 2.0, "C", json!({"key-zebra": 1, "in": {"key-zebra": {"zebra": 1}}})),
        reading("scale-r", 3.0, "kg of zebra", json!({})),
        reading("scale-m", 3.0, "kg of zebra", json!({"gps": 1})),
        reading("scale-l", 3.0, "only zebra", json!({"name": "zebra"})),
        reading("scale-d", 4711.25, "kg of zebra", json!({})),
        reading("door", 3.0, "", json!({"note": "zebra rang", "n": [{"note": "zebra"}]})),
    ]
}

/// What is written by hand: escaped and repeated keys, and what is refused.
fn by_hand() -> Vec<String> {
    vec![
        r#"{"sensor_name":"t1","value":2,"metadata":{"\u0067\u0070\u0073":"zebra","r\u006fom":"zebra","gps":1,"gps":"zebra"}}"#
            .to_owned(),
        r#"{"sensor_name":"local-zebra5","value":4711.25,"metadata":{"a":"zebra"}}"#.to_owned(),
        r#"{"sensor_name":"dropped-zebra6","unit":"zebra"}"#.to_owned(),
        r#"{"sensor_name":"local-zebra7","value":"zebra"}"#.to_owned(),
        r#"{"sensor_name":"hashed-zebra8","value":1,"timestamp":-1e300}"#.to_owned(),
        r#"{"sensor_name":"hashed-zebra9","value":1,"metadata":["zebra"]}"#.to_owned(),
        format!(r#"{{"sensor_name":"local-zebra0","value":1,"metadata":{{"a":"zebra{}"}}}}"#, "z".repeat(5000)),
        r#"{"sensor_name":"zebra"#.to_owned(),
        format!(r#"{{"sensor_name":"t1","value":2,"metadata":{{"ok":{}1,"zebra":1{}}}}}"#, "{\"a\":".repeat(40), "}".repeat(40)),
    ]
}

fn config(cloud: &Cloud, door: &Door, broker: &Broker, policy: &str) -> String {
    format!(
        "[logging]\nlevel = 'trace'\n{}[ingest.mqtt]\nhost = '127.0.0.1'\nport = {}\n\
         [[sensors.devices]]\nname = 'homes'\ningest_type = 'mqtt'\ntopic = 'home/#'\nqos = 1\n\
         {policy}{STAGES}{}compression = 'zstd'\n{EAGER_STORE}",
        door.section(),
        broker.port,
        cloud.section()
    )
}

/// A daemon that has taken in all of the corpus and delivered what there is to deliver.
struct Fed {
    home: Home,
    daemon: Daemon,
    cloud: Cloud,
    _broker: Broker,
}

async fn fed(policy: &str) -> Fed {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let broker = Broker::start(Options::default()).await;
    let home = Home::new(&config(&cloud, &door, &broker, policy));
    let daemon = home.start().await;
    door.open(&daemon).await;
    broker.says("Sending SUBACK").await;
    for reading in readings() {
        door.post(&reading.to_string()).await;
    }
    for body in by_hand() {
        door.post(&body).await;
    }
    let publisher = Publisher::new(&broker);
    for (topic, payload) in [
        ("home/zebra/temperature", "21.5"),
        ("home/zebra/broken", "zebra says no number"),
        ("home/zebra/json", r#"{"value":1,"metadata":{"email":"zebra"}}"#),
        ("home/zebra/none", r#"{"metadata":{"email":"zebra"}}"#),
    ] {
        publisher.publish(topic, payload, QoS::AtLeastOnce).await;
    }
    door.post(r#"{"sensor_name":"last","value":9}"#).await;
    cloud
        .until_item("a window of the last reading ends", |item| {
            item["sensor_name"] == "last" && item["metadata"]["window"] == "each"
        })
        .await;
    let silent =
        |item: &Value| item["rule_name"] == "silent" && item["sensor_readings"][0]["sensor_name"] == "last";
    cloud.until_item("it is missed", silent).await;
    let is_empty = |health: &Value| health["cloud"]["queue_depth"] == 0;
    daemon.health_shows("everything is delivered", is_empty).await;
    Fed { home, daemon, cloud, _broker: broker }
}

/// Everything that gets out of the agent, by name.
async fn outputs(fed: Fed) -> Vec<(String, Vec<u8>)> {
    let Fed { home, daemon, cloud, _broker } = fed;
    let mut outputs = Vec::new();
    for page in ["/health", "/metrics", "/livez", "/readyz"] {
        outputs.push((page.to_owned(), daemon.get(page).await.1.into_bytes()));
    }
    for (name, arguments) in [
        ("status", &["status", "--config", "config.toml"][..]),
        ("doctor", &["doctor", "--config", "config.toml"]),
        ("blackbox", &["blackbox", "--config", "config.toml"]),
        ("privacy report", &["privacy", "report", "--config", "config.toml", "--json"]),
        ("privacy verify", &["privacy", "verify", "--config", "config.toml"]),
        ("store stats", &["store", "stats", "--config", "config.toml", "--json"]),
    ] {
        let (_, out, error) = run(&home, arguments).await;
        outputs.push((name.to_owned(), (out + &error).into_bytes()));
    }
    let (code, _, error) = run(&home, &["support-bundle", "--config", "config.toml", "-o", "b.tar.gz"]).await;
    assert_eq!(code, Some(0), "{error}");
    let mut bundle = Vec::new();
    GzDecoder::new(std::fs::File::open(home.path("b.tar.gz")).unwrap()).read_to_end(&mut bundle).unwrap();
    outputs.push(("support bundle".to_owned(), bundle));
    outputs.push(("log".to_owned(), daemon.stop().await.into_bytes()));
    assert_eq!(verify(&home).await.0, Some(0));
    let arrivals = cloud.endpoint.receiver.arrivals();
    outputs.push(("requests".to_owned(), format!("{arrivals:?}").into_bytes()));
    let lanes = [&stored::OUTBOUND[..], &["block_minute", "block_quarter"]].concat();
    let queued: String =
        stored::items(&home.state_dir(), &lanes).iter().map(|item| format!("{item}\n")).collect();
    outputs.push(("lanes that are delivered".to_owned(), queued.into_bytes()));
    outputs.push(("other tables".to_owned(), tables(&home.state_dir()).into_bytes()));
    outputs.push(("black box".to_owned(), std::fs::read(home.state_dir().join("blackbox")).unwrap()));
    outputs
}

/// Every table of the store but the blocks, as text.
fn tables(state_dir: &Path) -> String {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = Connection::open_with_flags(state_dir.join("edge_store.db"), flags).unwrap();
    let mut text = String::new();
    for table in ["meta", "lane", "pending", "dead_letter", "gap", "boot", "provisional", "privacy_audit"] {
        let mut select = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = select.column_count();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                text += &format!("{:?} ", row.get_ref(column).unwrap());
                if let Ok(cell) = row.get::<_, String>(column) {
                    text += &cell;
                }
            }
            text.push('\n');
        }
    }
    text
}

/// The places where `personal` stands, with a few bytes around each first one.
fn found(outputs: &[(String, Vec<u8>)], personal: &str) -> Vec<(String, String)> {
    let places = outputs.iter().filter_map(|(name, bytes)| {
        let at = bytes
            .windows(personal.len())
            .position(|window| window.eq_ignore_ascii_case(personal.as_bytes()))?;
        let around = &bytes[at.saturating_sub(200)..(at + 100).min(bytes.len())];
        Some((name.clone(), String::from_utf8_lossy(around).into_owned()))
    });
    places.collect()
}

#[tokio::test]
async fn nothing_personal_of_the_corpus_gets_out() {
    let fed = fed(POLICY).await;
    let health = fed.daemon.health().await;
    assert_eq!(health["privacy"]["leaves_device"], "what the policy lets through");
    let local = stored::items(&fed.home.state_dir(), &stored::LOCAL);
    let outputs = outputs(fed).await;
    for personal in PERSONAL {
        assert_eq!(found(&outputs, personal), [], "{personal}");
    }
    // What may stay did stay.
    let local = json!(local).to_string();
    assert!(local.contains("local-zebra3") && local.contains("zebra's"), "{local}");
    assert!(local.contains("only zebra") && !local.contains("kg of zebra"), "{local}");
    assert!(!local.contains("dropped-") && !local.contains("\"ssn\""), "{local}");
}

#[tokio::test]
async fn without_a_policy_the_same_scan_finds_all_of_it() {
    let fed = fed(POLICY_OFF).await;
    let health = fed.daemon.health().await;
    assert_eq!(health["privacy"]["leaves_device"], "everything: the firewall is off");
    let outputs = outputs(fed).await;
    for personal in PERSONAL {
        let places: Vec<_> = found(&outputs, personal).into_iter().map(|(name, _)| name).collect();
        for name in ["requests", "lanes that are delivered"] {
            assert!(places.iter().any(|place| place == name), "{personal}: {places:?}");
        }
    }
    for reading in readings() {
        let name = reading["sensor_name"].as_str().unwrap();
        assert!(found(&outputs, name).iter().any(|(place, _)| place == "requests"), "{name}");
    }
}
