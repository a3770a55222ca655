//! Tells of a salvage of the store: once in the log and in the black box, whichever start or repair did it.

use crate::lifecycle::blackbox::{Blackbox, What};
use crate::store::Store;
use crate::store::salvage::Summary;

/// Tells of the last salvage of `store`, unless a start before told of it. A start that is killed right
/// afterwards may have the next one tell again.
pub async fn tell(store: &Store, blackbox: &Blackbox) {
    let Some(summary) = store.counters().salvage() else { return };
    let which = summary.time.to_string();
    if store.recalled(TOLD_AS) == Some(which.as_str()) {
        return;
    }
    log(summary);
    blackbox.record(What::Salvaged, &short(summary));
    // The agent is stopping: the next start tells again.
    store.remember(TOLD_AS, which).await.ok();
}

fn log(summary: &Summary) {
    if summary.folder.is_empty() {
        tracing::error!(
            reason = summary.reason,
            "the database of an earlier run is gone: what it held and was not delivered is lost, and declared"
        );
        return;
    }
    tracing::error!(
        reason = summary.reason,
        folder = summary.folder,
        items_lost = summary.items_lost,
        items_queued = summary.items_queued,
        blocks_lost = summary.blocks_lost,
        is_uncertain = summary.is_uncertain,
        "the database was damaged and has been salvaged; the damaged files were moved aside"
    );
}

/// The counts first: the end of a long reason does not fit into a record.
fn short(summary: &Summary) -> String {
    let Summary { folder, reason, items_lost, blocks_lost, .. } = summary;
    if folder.is_empty() {
        return format!("the database of an earlier run is gone: {reason}");
    }
    let unknown = if summary.is_uncertain { ", and of some it is not known" } else { "" };
    format!("{items_lost} items lost in {blocks_lost} blocks{unknown}; {folder}; {reason}")
}

/// In the store's facts: the time of the salvage that was told of.
const TOLD_AS: &str = "salvage_told";
