//! Which sensors a gap concerns: a short list of names, read out of items that were stored as they would
//! have been sent, so that the privacy policy holds for the names too.

/// Names in one list; a full one means that there may be more.
pub const NAMES_MAX: usize = 16;

/// A bounded set of names, in the order in which they were met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// Adds a name that is not empty, while there is room.
    pub fn add(&mut self, name: &str) {
        if !name.is_empty() && !self.is_full() && !self.0.iter().any(|known| known == name) {
            self.0.push(name.to_owned());
        }
    }

    /// Adds the sensors of an item as it is stored: of a reading its own, of an event that of its reading.
    pub fn add_of(&mut self, item: &[u8]) {
        if self.is_full() {
            return;
        }
        if let Some(name) = raw_name(item)
            && let Ok(name) = serde_json::from_slice::<std::borrow::Cow<'_, str>>(name)
        {
            self.add(&name);
        }
    }

    pub fn absorb(&mut self, other: &Self) {
        other.0.iter().for_each(|name| self.add(name));
    }

    pub fn is_full(&self) -> bool {
        self.0.len() >= NAMES_MAX
    }

    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    pub fn into_vec(self) -> Vec<String> {
        self.0
    }

    /// As a JSON array of strings.
    pub fn to_json(&self) -> String {
        serde_json::Value::from(self.0.clone()).to_string()
    }

    /// From [`Self::to_json`]; what cannot be read counts as no name.
    pub fn from_json(text: &str) -> Self {
        let mut names = Self::default();
        let read: Vec<String> = serde_json::from_str(text).unwrap_or_default();
        read.iter().for_each(|name| names.add(name));
        names
    }
}

/// The JSON string of the first `sensor_name` in an item.
fn raw_name(item: &[u8]) -> Option<&[u8]> {
    let at = if item.starts_with(READING) {
        READING.len() - 1
    } else {
        let found = item.windows(KEY.len()).position(|window| window == KEY)?;
        found + KEY.len() - 1
    };
    let text = &item[at..];
    let mut escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some(&text[..end + 2])
}

/// How a reading begins.
const READING: &[u8] = b"{\"sensor_name\":\"";
/// Inside of a string its quotes would be escaped.
const KEY: &[u8] = b"\"sensor_name\":\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_readings_and_of_readings_in_events() {
        let mut names = Names::default();
        names.add_of(br#"{"sensor_name":"a \"b\" \\","timestamp":1.0,"value":2.0,"unit":"","metadata":{}}"#);
        names.add_of(br#"{"rule_name":"r","message":"say \"sensor_name\":\"x\"","sensor_readings":[{"sensor_name":"boiler","value":1}]}"#);
        names.add_of(b"no item at all");
        names.add_of(br#"{"sensor_name":"never ends"#);
        assert_eq!(names.as_slice(), [r#"a "b" \"#, "boiler"]);
        assert_eq!(Names::from_json(&names.to_json()), names);
    }

    #[test]
    fn the_list_is_bounded() {
        let mut names = Names::default();
        (0..100).for_each(|number| names.add(&number.to_string()));
        assert_eq!(names.as_slice().len(), NAMES_MAX);
    }
}
