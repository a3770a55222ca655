//! Every write, sync, cut, rename, removal and open for writing in the store's life fails once, in every way
//! it can: nothing acknowledged is lost, the daemon starts and runs on, and is well again by itself.
//!
//! `PYV_FAULTS` is the number of lives, or `all` for every call and way; `PYV_SEED` chooses others.

mod life;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::task::{JoinSet, LocalSet};

use life::{Call, Fault, NONE, Scene, Story, full_state, live};

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_a_call_on_the_disk_fails() {
    LocalSet::new().run_until(live_through_all()).await;
}

async fn live_through_all() {
    let folder = TempDir::new().unwrap();
    let shim = compile(folder.path());
    let template = full_state().await;
    let scenes = [("new", Scene::New), ("full", Scene::Full(template.path()))];

    let mut lives = Vec::new();
    for (name, scene) in scenes {
        let story = live(&shim, scene, NONE).await;
        assert_eq!(story.violations, Vec::<String>::new(), "without any fault");
        println!("scene {name}: {} calls", story.calls.len());
        lives.extend(faults(&story.calls).map(|fault| (name, fault)));
    }
    choose(&mut lives);

    let mut table = Table::default();
    let mut running = JoinSet::new();
    let mut names = HashMap::new();
    loop {
        while running.len() < AT_ONCE
            && let Some((name, fault)) = lives.pop()
        {
            let (shim, template) = (shim.clone(), template.path().to_owned());
            let handle = running.spawn_local(async move {
                live(&shim, if name == "new" { Scene::New } else { Scene::Full(&template) }, fault).await
            });
            names.insert(handle.id(), (name, fault));
        }
        let Some(ended) = running.join_next_with_id().await else { break };
        match ended {
            Ok((id, story)) => table.enter(names[&id], story),
            Err(error) => table.enter(names[&error.id()], Story::failed(error)),
        }
    }
    table.print();
    assert_eq!(table.violations, Vec::<String>::new());
}

/// What the kernel failed to write it calls clean from then on: behind such pages of the write-ahead log
/// nothing may be written, or it goes with them when the power does.
#[tokio::test]
async fn after_a_failed_sync_the_log_is_emptied_before_anything_is_written_behind_it() {
    let folder = TempDir::new().unwrap();
    let shim = compile(folder.path());
    let is_sync = |call: &Call| call.operation == "sync" && call.file == LOG;
    let mut lives = 0;
    let (story, failed) = loop {
        let story = live(&shim, Scene::New, NONE).await;
        // Of a commit in the middle of the first run.
        let at = story.calls.iter().enumerate().filter(|(_, call)| is_sync(call)).nth(12).unwrap().0 + 1;
        let story = live(&shim, Scene::New, Fault { at, kind: "EIO", millis: 0 }).await;
        let failed = story.calls.iter().position(|call| call.failed).unwrap();
        if is_sync(&story.calls[failed]) {
            break (story, failed);
        }
        // The lives are alike but not the same.
        lives += 1;
        assert!(lives < LIVES_MAX, "{:?}", story.calls[failed]);
    };
    assert_eq!((story.waited, &story.violations), (true, &Vec::new()));
    let after = &story.calls[failed + 1..];
    let emptied = |call: &Call| ["unlink", "truncate"].contains(&&*call.operation) && call.file == LOG;
    let emptied = after.iter().position(emptied).expect("it is emptied");
    // But for the note that it is being emptied, of a page or two, each with the header of its frame.
    let written = after[..emptied].iter().filter(|call| call.operation == "write" && call.file == LOG);
    assert!(written.count() <= 4, "{:?}", &after[..emptied]);
}

/// Every way in which each of `calls` can fail.
fn faults(calls: &[Call]) -> impl Iterator<Item = Fault> {
    calls.iter().enumerate().flat_map(|(index, call)| {
        let kinds: &[&'static str] = match call.operation.as_str() {
            "open" => &["EACCES", "EROFS", "ENOSPC", "EIO"],
            "write" => &["ENOSPC", "EIO", "short", "torn"],
            "sync" => &["EIO", "ENOSPC"],
            "truncate" | "unlink" => &["EIO", "EROFS"],
            "rename" => &["EIO", "ENOSPC", "EROFS"],
            other => panic!("the shim does not know {other}"),
        };
        let at = index + 1;
        let once = kinds.iter().map(move |kind| Fault { at, kind, millis: 0 });
        // A disk that fails for a while, from here on.
        let lasting = LASTING.iter().filter(move |_| at % LASTING_EACH == 0);
        once.chain(lasting.map(move |kind| Fault { at, kind, millis: LASTING_MILLIS }))
    })
}

/// Keeps as many of `lives` as are asked for, at random.
fn choose(lives: &mut Vec<(&'static str, Fault)>) {
    let seed = std::env::var("PYV_SEED").map_or(1, |seed| seed.parse().unwrap());
    let wanted = std::env::var("PYV_FAULTS").unwrap_or_else(|_| "24".to_owned());
    println!("PYV_SEED={seed} PYV_FAULTS={wanted} of {}", lives.len());
    fastrand::Rng::with_seed(seed).shuffle(lives);
    if wanted != "all" {
        lives.truncate(wanted.parse().unwrap());
    }
}

/// What happened, by what failed.
#[derive(Default)]
struct Table {
    rows: BTreeMap<String, Row>,
    violations: Vec<String>,
}

#[derive(Default)]
struct Row {
    lives: u32,
    unnoticed: u32,
    waited: u32,
    held: u32,
    violations: u32,
}

impl Table {
    fn enter(&mut self, (scene, fault): (&str, Fault), story: Story) {
        let failed = story.calls.iter().find(|call| call.failed);
        let what = failed.map_or_else(
            // The lives are alike but not the same.
            || "not reached".to_owned(),
            |call| {
                let lasting = if fault.millis > 0 { " and on" } else { "" };
                format!("{} {}: {}{lasting}", call.operation, call.file, fault.kind)
            },
        );
        let row = self.rows.entry(what).or_default();
        row.lives += 1;
        row.waited += u32::from(story.waited);
        row.held += u32::from(story.held);
        row.unnoticed += u32::from(!story.waited && !story.held);
        row.violations += u32::from(!story.violations.is_empty());
        for violation in story.violations {
            println!("{scene} {fault:?}: VIOLATION: {violation}");
            self.violations.push(format!("{scene} {fault:?}: {violation}"));
        }
    }

    fn print(&self) {
        println!("| what failed | lives | unnoticed | waited out | start held, then started | violations |");
        println!("|---|---:|---:|---:|---:|---:|");
        let mut total = Row::default();
        let line = |what: &str, row: &Row| {
            let Row { lives, unnoticed, waited, held, violations } = row;
            println!("| {what} | {lives} | {unnoticed} | {waited} | {held} | {violations} |");
        };
        for (what, row) in &self.rows {
            line(what, row);
            total.lives += row.lives;
            total.unnoticed += row.unnoticed;
            total.waited += row.waited;
            total.held += row.held;
            total.violations += row.violations;
        }
        line("all", &total);
    }
}

pub fn compile(folder: &Path) -> PathBuf {
    let shim = folder.join("shim.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");
    let mut command = std::process::Command::new("cc");
    command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&shim).arg(source);
    let status =
        command.status().unwrap_or_else(|error| panic!("cc: {error}; apt-get install gcc libc6-dev"));
    assert!(status.success(), "the shim does not compile");
    shim
}

const LOG: &str = "edge_store.db-wal";
/// Until the call with the number of a sync is one.
const LIVES_MAX: u32 = 10;
/// Lives at the same time; they mostly wait.
const AT_ONCE: usize = 4;
/// From each so many-th call on, the disk fails for a while.
const LASTING_EACH: usize = 5;
const LASTING: [&str; 3] = ["EIO", "EROFS", "ENOSPC"];
const LASTING_MILLIS: u64 = 1200;
