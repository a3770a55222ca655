//! `support-bundle`: what is in it, and what is not.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use flate2::read::GzDecoder;

use crate::harness::daemon::{EAGER_STORE, Home};
use crate::harness::process::finished;
use crate::harness::{soon, write};

/// Stands in everything that is private here.
const CANARY: &str = "zebra47";

/// Personal data and secrets in every place that a configuration has for them.
fn private_config(home: &Home) -> String {
    let secret_file = home.path("secret");
    write(&secret_file, "zebra47-in-a-file\n");
    let secret_file = secret_file.display();
    let port = home.health_address().port();
    format!(
        "{EAGER_STORE}\
        [agent]\ndevice_id = 'zebra47-device'\n[health]\nport = {port}\n\
        [cloud]\nenabled = true\nendpoint = 'http://127.0.0.1:9/zebra47-path/x?key=zebra47-query'\n\
        api_key = '${{file:{secret_file}}}'\nproxy = 'http://zebra47-user:zebra47%21pass@127.0.0.1:9'\n\
        [ingest.mqtt]\nhost = 'zebra47.invalid'\nusername = 'zebra47-mqtt'\npassword = '${{ZEBRA_PASSWORD}}'\nclient_id = 'zebra47-client'\n\
        [ingest.http]\nbind = '127.0.0.2'\nport = {ingest_port}\ntoken = 'zebra47-token'\n\
        [[sensors.devices]]\nname = 'zebra47-plant'\ningest_type = 'mqtt'\ntopic = 'zebra47/#'\nunit = 'zebra47-unit'\n\
        [[sensors.devices]]\nname = 'zebra47-posted'\ningest_type = 'http'\n\
        [[sensors.devices]]\nname = '${{ZEBRA_NAME}}'\ningest_type = 'exec'\n\
        command = ['/bin/sh', '-c', '''echo zebra47-cry >&2; echo '{{\"sensor_name\": \"zebra47-told\", \"value\": 1, \"metadata\": {{\"who\": \"zebra47-who\"}}}}'; sleep 60''']\n\
        environment = {{ ZEBRA47_KEY = 'zebra47-value' }}\n\
        [[sensors.devices]]\nname = 'zebra47-gone'\ningest_type = 'exec'\ncommand = ['/opt/zebra47/none']\n\
        [[sensors.devices]]\nname = 'zebra47-file'\ningest_type = 'file_replay'\npath = '/srv/zebra47.csv'\n\
        [[sensors.devices]]\nname = 'zebra47-made'\ningest_type = 'simulator'\nsensor_type = 'zebra47-type'\ninterval_seconds = 0.01\n\
        [rules.zebra47-fever]\ncondition_expr = \"ctx.metadata['zebra47'] == 'zebra47'\"\nmessage = 'zebra47 is ill'\n\
        [[windows.definitions]]\nname = 'zebra47-window'\nsensor_name = 'zebra47*'\n\
        [privacy]\nredact_fields = ['*:zebra47-field']\nrules = [ {{ sensor = 'zebra47-bedroom*', action = 'hash' }} ]\n",
        ingest_port = crate::harness::process::free_port(),
    )
}

/// The archive without its compression.
fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn assert_without_canary(path: &Path) {
    let bytes = unpacked(path);
    let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    if let Some(at) = text.find(CANARY) {
        let (before, after) = (text[..at].len().saturating_sub(300), (at + 200).min(text.len()));
        let around = String::from_utf8_lossy(&text.as_bytes()[before..after]).into_owned();
        panic!("it holds what is private:\n{around}");
    }
}

/// A journalctl of the test's own, which prints `lines`.
fn with_journal(home: Home, lines: &str) -> Home {
    let folder = home.path("bin");
    std::fs::create_dir_all(&folder).unwrap();
    write(&folder.join("lines"), lines);
    let program = folder.join("journalctl");
    write(&program, &format!("#!/bin/sh\ncat '{}'\n", folder.join("lines").display()));
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    home.env("PATH", &path)
}

async fn bundle(home: &Home, file: &str) -> String {
    let mut command = home.command();
    command.args(["support-bundle", "--config", "config.toml", "--output", file]);
    let (code, said, error) = finished(&mut command).await;
    assert_eq!(code, Some(0), "{said}{error}");
    said
}

#[tokio::test]
async fn nothing_private_is_in_the_archive_of_an_agent_that_is_full_of_it() {
    let journal = [
        "mqtt: connected broker=zebra47.invalid port=1883",
        "exec: the program says source=zebra47 line=\"zebra47\"",
        "config.toml:3:1: zebra47: is not a known key",
    ]
    .map(|message| {
        serde_json::json!({"__REALTIME_TIMESTAMP": "1717156800000000", "PRIORITY": "6", "_PID": "7",
            "_TRANSPORT": "stdout", "MESSAGE": message})
        .to_string()
    });
    let home = with_journal(Home::new(""), &journal.join("\n"))
        .env("ZEBRA_PASSWORD", "zebra47-password")
        .env("ZEBRA_NAME", "zebra47-told");
    let config = private_config(&home);
    home.configure(&config);
    write(&home.path("conf.d/90-zebra47.toml"), "[logging]\nlevel = 'debug'\n");
    let mut daemon = home.start().await;
    daemon
        .health_shows("its sources fail and speak", |health| {
            let sources = health["ingest"]["sources"].as_array().unwrap();
            let said = sources.iter().filter(|source| source["last_error"].is_string()).count();
            said >= 3
                && health["cloud"]["trouble"].is_string()
                && health["store"]["commits"].as_u64() > Some(0)
        })
        .await;
    let said = bundle(&home, "running.tar.gz").await;
    for name in [
        "versions.json",
        "doctor.txt",
        "doctor.json",
        "config.json",
        "status.json",
        "store.json",
        "blackbox.txt",
        "journal.txt",
    ] {
        assert!(said.contains(name), "'{name}' is not in\n{said}");
    }
    assert_without_canary(&home.path("running.tar.gz"));

    // A file that is wrong says so with its values, in the log and to the doctor.
    home.configure(&format!(
        "{config}[zebra47]\nx = 1\n[[rules]]\nname = 'zebra47-twice'\nseverity = 'zebra47'\n"
    ));
    daemon.signal(rustix::process::Signal::HUP);
    daemon.says("the reload was refused").await;
    bundle(&home, "wrong.tar.gz").await;
    assert_without_canary(&home.path("wrong.tar.gz"));
    home.configure("zebra47 zebra47 = 'no toml'\n");
    bundle(&home, "broken.tar.gz").await;
    assert_without_canary(&home.path("broken.tar.gz"));

    home.configure(&config);
    daemon.stop().await;
    bundle(&home, "stopped.tar.gz").await;
    assert_without_canary(&home.path("stopped.tar.gz"));
}

#[tokio::test]
async fn it_is_an_archive_for_its_owner_alone_and_never_replaces_a_file() {
    let home = Home::new("[cloud]\nbatch_size = 77\n");
    let said = bundle(&home, "b.tar.gz").await;
    assert!(said.contains("written to b.tar.gz"), "{said}");
    let file = home.path("b.tar.gz");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let listed = Command::new("tar").arg("-tzvf").arg(&file).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().count() >= 5 && listed.contains("/config.json"), "{listed}");
    let shown = Command::new("tar")
        .args(["-xzOf"])
        .arg(&file)
        .args(["--wildcards", "*/config.json"])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("\"batch_size\": 77"), "{shown}");

    let before = std::fs::read(&file).unwrap();
    let mut command = home.command();
    command.args(["support-bundle", "--config", "config.toml", "-o", "b.tar.gz"]);
    let output = soon("it is refused", command.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read(&file).unwrap(), before);
}
