//! temporary
pub const GENESIS_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
pub struct AuditRecord {
    pub timestamp: f64,
    pub action: String,
    pub details: String,
    pub prev_hash: String,
    pub record_hash: String,
}
pub fn next_record(prev: &str, action: &str, details: &serde_json::Value, timestamp: f64) -> AuditRecord {
    AuditRecord {
        timestamp,
        action: action.to_owned(),
        details: details.to_string(),
        prev_hash: prev.to_owned(),
        record_hash: prev.to_owned(),
    }
}
