//! Memory: the agent in a small control group at full load, and what is known after the OOM killer ended it. They need
//! a memory controller in which groups can be made, and say so when there is none.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyvorin_edge::lifecycle::memory::{Limit, Memory, Parts, Source, State, anonymous_bytes, run};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, EAGER_STORE, Home, exchange};
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::process::free_port;
use crate::harness::{soon, stored, until, write};

#[path = "../../examples/bench/cgroup.rs"]
#[expect(dead_code, reason = "what the kernel counted is printed, and most of it only that")]
mod cgroup;

use cgroup::Cgroup;

const MIB: u64 = 1 << 20;

/// The daemon's home whose every process is in a control group of its own.
struct Limited {
    cgroup: Cgroup,
    home: Home,
    ingest: SocketAddr,
}

impl Limited {
    fn new(limit_mib: u64, sections: &str) -> Self {
        let cgroup = Cgroup::with_limit(limit_mib * MIB)
            .unwrap_or_else(|error| panic!("memory limits cannot be tested here: {error:#}"));
        let ingest = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let home = Home::new(&format!(
            "[ingest.http]\nport = {}\ntimeout_seconds = 200\n\
             [[sensors.devices]]\nname = 'gateway'\ningest_type = 'http'\n{sections}",
            ingest.port()
        ));
        let words = cgroup.words().map(|word| word.into_os_string().into_string().unwrap());
        let home = home.under(&words.each_ref().map(String::as_str));
        Self { cgroup, home, ingest }
    }

    async fn start(&self) -> Daemon {
        let daemon = self.home.start().await;
        let is_open = |health: &Value| health["ingest"]["adapters_connected"].to_string().contains("http");
        daemon.health_shows("the http source listens", is_open).await;
        daemon
    }
}

/// A request with a body of a megabyte, readings of as many sensors, numbered from `*next` on.
fn megabyte(next: &mut u32) -> (String, u32) {
    let (mut body, first) = (String::new(), *next);
    while body.len() < 1_000_000 {
        let sensor = *next;
        writeln!(
            body,
            r#"{{"sensor_name":"hall-{}/line-{sensor}/temperature","value":{sensor},"unit":"C"}}"#,
            sensor / 50
        )
        .unwrap();
        *next += 1;
    }
    (request(&body), *next - first)
}

fn request(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /ingest HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Every stage that knows sensors has to know all of them.
const STAGES: &str = "[windows.minute]\nsensor_name = '*'\nduration_seconds = 60\n\
                      [windows.quarter]\nsensor_name = '*'\nduration_seconds = 900\nstep_seconds = 60\nwindow_type = 'rolling'\n\
                      [[rules]]\nname = 'all'\ncondition_expr = 'ctx.value >= 0'\ncooldown_seconds = 3600\n\
                      [privacy]\nrules = [{ sensor = '*-7/*', action = 'hash' }]\n";

#[tokio::test]
async fn within_32_mib_a_flood_of_100_000_sensors_with_an_endpoint_that_hangs_is_all_stored() {
    let cloud = Cloud::behaving(Behaviour { delay_seconds: 3600.0, ..Behaviour::default() }).await;
    let limited = Limited::new(32, &format!("{STAGES}{}", cloud.section()));
    let daemon = limited.start().await;
    let (mut posts, mut next, mut sent) = (JoinSet::new(), 0, 0);
    while next < 100_000 {
        let (request, readings) = megabyte(&mut next);
        sent += u64::from(readings);
        let address = limited.ingest;
        posts.spawn(async move { exchange(address, &request).await });
    }
    let all = async {
        while let Some(answer) = posts.join_next().await {
            let (status, body) = answer.unwrap().unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
            assert_eq!(status, 200, "{body}");
        }
    };
    tokio::time::timeout(FLOOD_MAX, all)
        .await
        .unwrap_or_else(|_| panic!("it takes too long\n{}", daemon.log()));
    let counts = limited.cgroup.counts().unwrap();
    // An answer is on its way before its readings are let go.
    let is_empty =
        |health: &Value| health["memory"]["in_flight_bytes"] == 0 && health["memory"]["ingest_bytes"] == 0;
    let health = daemon.health_shows("nothing is held", is_empty).await;
    println!("{counts:?}, {}", health["memory"]);
    assert_eq!(counts.oom_kills, 0, "{counts:?}");
    assert_eq!(health["agent"]["readings_processed"], sent);
    assert!(health["store"]["items_stored"].as_u64().unwrap() >= sent, "{}", health["store"]);
    let memory = &health["memory"];
    assert_eq!(memory["limit_bytes"], 32 * MIB);
    let (peak, planned) = (memory["peak_bytes"].as_u64().unwrap(), memory["planned_bytes"].as_u64().unwrap());
    assert!(peak > 0 && peak <= planned, "{memory}");
    daemon.stop().await;
}

/// Has the OOM killer end the daemon: another process in its control group takes all there is, and the daemon is the
/// one that the kernel prefers.
async fn have_it_killed(limited: &Limited, mut daemon: Daemon) {
    write(Path::new(&format!("/proc/{}/oom_score_adj", daemon.pid())), "1000");
    let [shell, option, script, folder] = limited.cgroup.words();
    let mut hog = tokio::process::Command::new(shell);
    let mut hog = hog
        .arg(option)
        .arg(script)
        .arg(folder)
        .args(["python3", "-c", "x = bytearray(200 << 20)"])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, None, "a signal ends it\n{}", daemon.log());
    hog.kill().await.ok();
    assert!(limited.cgroup.counts().unwrap().oom_kills > 0);
}

#[tokio::test]
async fn after_the_oom_killer_the_next_start_says_so_and_nothing_acknowledged_is_lost() {
    let limited = Limited::new(96, EAGER_STORE);
    let daemon = limited.start().await;
    let readings: Vec<_> =
        (0..500).map(|value| format!("{{\"sensor_name\":\"s\",\"value\":{value}}}")).collect();
    let (status, _) =
        soon("it is stored", exchange(limited.ingest, &request(&readings.join("\n")))).await.unwrap();
    assert_eq!(status, 200);
    have_it_killed(&limited, daemon).await;

    let daemon = limited.start().await;
    let line = daemon.says("the run before this one did not end on request").await;
    assert!(line.contains("killed by the OOM killer"), "{line}");
    assert_eq!(daemon.health().await["agent"]["previous_run"]["end"], "killed");
    daemon.stop().await;
    let values = stored::values(&limited.home.state_dir(), &stored::LOCAL);
    assert_eq!(values, (0..500).map(f64::from).collect::<Vec<_>>());
}

/// As under systemd, which makes the control group anew at each start: what is said in `ExecStopPost=`, while the old
/// one is still there, is all that is known.
#[tokio::test]
async fn what_the_service_manager_says_of_the_end_is_kept_for_the_next_start() {
    let limited = Limited::new(96, EAGER_STORE);
    have_it_killed(&limited, limited.start().await).await;
    let note = async |result: &str, status: &str| {
        let [shell, option, script, folder] = limited.cgroup.words();
        let mut command = tokio::process::Command::new(shell);
        command.arg(option).arg(script).arg(folder).arg(env!("CARGO_BIN_EXE_pyv-edge-agent"));
        command.args(["blackbox", "--note-end", "--config"]).arg(limited.home.config_file());
        let output = command.env("SERVICE_RESULT", result).env("EXIT_STATUS", status).output().await.unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    };
    note("success", "0").await;
    note("signal", "KILL").await;
    // Said twice, it is kept once.
    note("signal", "KILL").await;
    // Another group, as systemd gives it.
    let later = Limited { cgroup: Cgroup::with_limit(96 * MIB).unwrap(), ..limited };
    let words = later.cgroup.words().map(|word| word.into_os_string().into_string().unwrap());
    let home = later.home.under(&words.each_ref().map(String::as_str));
    let daemon = home.start().await;
    let line = daemon.says("the run before this one did not end on request").await;
    assert!(line.contains("killed by the OOM killer (service result signal, KILL)"), "{line}");
    daemon.stop().await;
    let output =
        home.command().args(["blackbox", "--config"]).arg(home.config_file()).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("service result").count(), 1, "{text}");
}

/// Nothing can be shed here.
struct Nothing;

impl Parts for Nothing {
    fn shed(&self) {}

    fn relieved(&self) {}
}

#[tokio::test]
async fn while_memory_is_above_its_plan_sources_take_turns_and_afterwards_they_do_not() {
    // A plan that this process exceeds as long as it holds the ballast.
    let mut ballast = vec![1_u8; 64 << 20];
    let memory = Memory::new(Limit { bytes: 0, source: Source::Unknown });
    assert!(anonymous_bytes(Path::new("/")).unwrap() > memory.plan.total_bytes);
    let stop = CancellationToken::new();
    let Memory { plan, status, flight, .. } = memory;
    let governor = run(Arc::clone(&plan), flight.clone(), status.clone(), Nothing, stop.clone());
    let seen = async {
        until("it slows", async || (status.state() == State::Slowing).then_some(())).await;
        let first = flight.take(1024).await;
        let second = tokio::time::timeout(Duration::from_millis(50), flight.take(1024)).await;
        assert!(second.is_err(), "the second source waits for the first one's commit");
        drop(first);
        drop(soon("then it has its turn", flight.take(1024)).await);
        ballast.truncate(0);
        ballast.shrink_to_fit();
        until("it ends", async || (status.state() == State::Within).then_some(())).await;
        let (first, second) =
            soon("both at once", async { (flight.take(1024).await, flight.take(1024).await) }).await;
        drop((first, second));
        stop.cancel();
    };
    tokio::join!(governor, seen);
}

/// For a debug build on a busy machine.
const FLOOD_MAX: Duration = Duration::from_secs(150);
