//! Takes private words out of texts that are made of other words.

use serde_json::Value;

/// What is taken out.
#[derive(Debug, Default)]
pub struct Scrub {
    /// The longest first: one may hold another.
    words: Vec<String>,
}

impl Scrub {
    /// Takes out each of `hidden` that is long enough to be told from other text, also as it stands between quotes.
    pub fn new(hidden: Vec<String>) -> Self {
        let mut words = Vec::with_capacity(hidden.len());
        for word in hidden {
            let quoted = [Value::from(word.as_str()).to_string(), format!("{word:?}")];
            words.extend(quoted.iter().map(|quoted| quoted[1..quoted.len() - 1].to_owned()));
            words.push(word);
        }
        words.retain(|word| word.len() >= WORD_BYTES_MIN);
        words.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        words.dedup();
        Self { words }
    }

    /// The text with stars in their places.
    pub fn text(&self, text: &str) -> String {
        let mut text = without_homes(text);
        for word in &self.words {
            if text.contains(word.as_str()) {
                text = replace(&text, word);
            }
        }
        text
    }

    /// The same in every string of `value`; keys are ours.
    pub fn json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Value::Object(members) => {
                members.into_iter().map(|(key, value)| (key, self.json(value))).collect()
            }
            other => other,
        }
    }
}

/// Short words are taken out only where they stand alone.
fn replace(text: &str, word: &str) -> String {
    if word.len() > SHORT_BYTES_MAX {
        return text.replace(word, STARS);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(word) {
        let is_alone = !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
        out.push_str(before);
        out.push_str(if is_alone { STARS } else { word });
        rest = after;
    }
    out + rest
}

/// The name of a person's folder is that person's.
fn without_homes(text: &str) -> String {
    const HOME: &str = "/home/";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(HOME) {
        let end = after
            .find(|c: char| c == '/' || c.is_whitespace() || c == '"' || c == '\'')
            .unwrap_or(after.len());
        out.push_str(before);
        out.push_str(HOME);
        out.push_str(if end == 0 { "" } else { STARS });
        rest = &after[end..];
    }
    out + rest
}

const STARS: &str = "***";
/// Shorter ones are units and the like, and part of every other word.
const WORD_BYTES_MIN: usize = 3;
const SHORT_BYTES_MAX: usize = 4;
