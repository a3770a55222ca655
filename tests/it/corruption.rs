//! Damaged databases: whatever was done to the files, the store opens, and what it holds and what it declares
//! account for everything that was produced.

mod cases;
mod life;
mod outcome;

use std::collections::BTreeMap;

use tokio::task::{JoinError, JoinSet};

use cases::Case;
use life::Life;

/// Every `nth` case of `cases`, or all of them when the environment asks for it; prints what came of them.
async fn survive(cases: Vec<Case>, nth: usize) {
    let nth = if std::env::var_os(ALL_VARIABLE).is_some() { 1 } else { nth };
    let (mut under_way, mut table, mut failures) = (JoinSet::new(), BTreeMap::new(), Vec::new());
    let mut count = 0;
    let mut note = |found: Result<Result<outcome::Outcome, String>, JoinError>| match found {
        Ok(Ok(outcome)) => *table.entry(outcome.to_string()).or_insert(0) += 1,
        Ok(Err(failure)) => failures.push(failure),
        Err(panic) => failures.push(panic.to_string()),
    };
    for case in cases.into_iter().step_by(nth) {
        if under_way.len() == AT_ONCE {
            note(under_way.join_next().await.unwrap());
        }
        count += 1;
        under_way.spawn(async move {
            let name = case.name.clone();
            outcome::of(case).await.map_err(|failure| format!("{name}: {failure}"))
        });
    }
    while let Some(found) = under_way.join_next().await {
        note(found);
    }
    println!("{count} cases:");
    for (outcome, count) in table {
        println!("{count:6}  {outcome}");
    }
    assert!(failures.is_empty(), "{} of {count} cases:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test]
async fn a_byte_that_changed_on_any_page_is_survived_and_accounted_for() {
    let life = Life::live().await;
    survive(cases::pages(&life), 12).await;
}

#[tokio::test]
async fn a_byte_that_changed_in_the_header_of_the_file_is_survived_and_accounted_for() {
    let life = Life::live().await;
    survive(cases::header(&life), 3).await;
}

#[tokio::test]
async fn a_write_ahead_log_that_is_cut_or_changed_anywhere_is_survived_and_accounted_for() {
    let life = Life::live().await;
    survive(cases::log(&life), 60).await;
}

#[tokio::test]
async fn files_that_are_cut_emptied_swapped_or_gone_are_survived_and_accounted_for() {
    let life = Life::live().await;
    let other = Life::live().await;
    survive(cases::files(&life, &other), 1).await;
}

const ALL_VARIABLE: &str = "PYVORIN_CORRUPTION_ALL";
const AT_ONCE: usize = 8;
