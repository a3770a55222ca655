//! The configuration without what is private: the value of a key is shown when the list of [`super::words`] says so
//! and it is of the kind that it should be; of all others their kind and length. A key that no list knows is
//! somebody's own word, and is not shown either.

use serde_json::{Map, Value as Json};
use url::Url;

use super::words::{KEYS, Shown, shown};
use crate::config::tree::{Node, Value};

/// A configuration file as JSON. What is not shown is added to `hidden`.
pub fn redacted(tree: &Node, hidden: &mut Vec<String>) -> Json {
    value(&tree.value, "", hidden)
}

fn value(found: &Value, path: &str, hidden: &mut Vec<String>) -> Json {
    match found {
        Value::Table(table) => {
            let mut members = Map::new();
            for (key, entry) in table {
                let is_known = KEYS.contains(&key.as_str());
                let below = match path {
                    "" => key.clone(),
                    // `[rules.<name>]` is a rule as one of the list, and so is an action.
                    "rules" | "actions" if !is_known => path.to_owned(),
                    path => format!("{path}.{key}"),
                };
                let below = value(&entry.node.value, &below, hidden);
                if is_known {
                    members.insert(key.clone(), below);
                } else {
                    hide(key, hidden);
                    members.insert(format!("<key {}, {} bytes>", members.len() + 1, key.len()), below);
                }
            }
            Json::Object(members)
        }
        // All of a list are alike: what stands for one stands for each.
        Value::List(items) => items.iter().map(|item| value(&item.value, path, hidden)).collect(),
        Value::Null => Json::Null,
        other => single(other, path, hidden),
    }
}

fn single(found: &Value, path: &str, hidden: &mut Vec<String>) -> Json {
    let text = found.text().unwrap_or_default();
    match (shown(path), found) {
        (Some(Shown::Number), Value::Integer(number)) => return (*number).into(),
        (Some(Shown::Number), Value::Float(number)) => return (*number).into(),
        (Some(Shown::Boolean), Value::Bool(is)) => return (*is).into(),
        (Some(Shown::Word(words)), _) if words.contains(&text) => return text.into(),
        (Some(Shown::Origin), _) => {
            let origin = origin(text, hidden);
            hide(text, hidden);
            return origin.map_or_else(|| describe(found), Json::from);
        }
        _ => {}
    }
    hide_all(found, hidden);
    describe(found)
}

/// Where a URL leads to; its other parts are hidden, as any of them may hold a key.
fn origin(text: &str, hidden: &mut Vec<String>) -> Option<String> {
    let url = Url::parse(text).ok()?;
    hide_parts(&url, hidden);
    matches!(url.scheme(), "http" | "https").then(|| format!("{}/...", url.origin().ascii_serialization()))
}

fn hide_all(found: &Value, hidden: &mut Vec<String>) {
    match found {
        Value::String(text) => hide(text, hidden),
        Value::Substituted(value) => {
            hide(&value.text, hidden);
            hide(&value.typed, hidden);
            value.values.iter().for_each(|value| hide(value, hidden));
        }
        // Numbers are too short to be told from others.
        _ => {}
    }
    if let Some(Ok(url)) = found.text().filter(|text| text.contains("://")).map(Url::parse) {
        hide_parts(&url, hidden);
        hidden.extend(url.host_str().map(str::to_owned));
    }
}

fn hide_parts(url: &Url, hidden: &mut Vec<String>) {
    let password = url.password().unwrap_or_default();
    for part in
        [url.username(), password, url.query().unwrap_or_default(), url.fragment().unwrap_or_default()]
    {
        hide(part, hidden);
    }
    hide(url.path().trim_matches('/'), hidden);
    for (_, value) in url.query_pairs() {
        hide(&value, hidden);
    }
}

fn hide(text: &str, hidden: &mut Vec<String>) {
    hidden.push(text.to_owned());
}

/// Kind and length, and where a substituted value comes from.
fn describe(found: &Value) -> Json {
    let text = match found {
        Value::Substituted(value) => {
            let from = match &value.typed {
                typed if typed.contains("${credential:") => "a credential",
                typed if typed.contains("${file:") => "a file",
                _ => "the environment",
            };
            format!("<{} bytes from {from}>", value.text.len())
        }
        Value::String(text) => format!("<string, {} bytes>", text.len()),
        other => format!("<{}>", other.kind()),
    };
    text.into()
}
