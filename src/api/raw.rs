//! JSON that koco passes on unread: kept as text, so that it costs only its bytes, whatever its depth. `serde_json`
//! reads a typed value recursively and gives up at 128 levels; the API server takes 10,000. Caches hold less of it: what
//! was trimmed can't be written, so that nothing is lost by a write of a cached copy.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, de::DeserializeOwned, ser};
use serde_json::{Value, value::RawValue};

/// What caches keep of a value that users may want to be large.
const SMALL: usize = 1024;

/// Any JSON value, as text. Equality is that of the text; of trimmed ones, that of what is left and of their size.
#[derive(Clone)]
pub struct RawJson {
    text: Box<RawValue>,
    size: usize,
    kept: Kept,
}

/// How much of the value the text is.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    All,
    Part,
    Nothing,
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.kept {
            Kept::All => self.text.serialize(serializer),
            Kept::Part | Kept::Nothing => Err(ser::Error::custom("it is a trimmed copy")),
        }
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::new)
    }
}

impl RawJson {
    fn new(text: Box<RawValue>) -> Self {
        Self { size: text.get().len(), text, kept: Kept::All }
    }

    /// The text.
    pub fn get(&self) -> &str {
        self.text.get()
    }

    /// The size of the text, in bytes. Stays when it is trimmed.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether it is `{}`, as where there is none.
    pub fn is_empty(&self) -> bool {
        self.get() == "{}" && !self.is_trimmed()
    }

    /// Drops the text, for caches.
    pub fn trim(&mut self) {
        *self = Self { size: self.size, kept: Kept::Nothing, ..Self::default() };
    }

    /// The same, unless it is small: then it is not worth the read that a cached copy without it costs.
    pub fn trim_large(&mut self) {
        if self.size > SMALL {
            self.trim();
        }
    }

    /// Replaces the text by a part of it, for caches.
    pub fn trim_to(&mut self, part: &Value) {
        *self = Self { size: self.size, kept: Kept::Part, ..Self::from(part) };
    }

    /// Whether some of it is missing, as in caches.
    pub fn is_trimmed(&self) -> bool {
        self.kept != Kept::All
    }

    /// Parses it, or the part that was kept; fails on text that nests deeper than 128 levels if the type is that deep.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        match self.kept {
            Kept::Nothing => Err(de::Error::custom("it is a trimmed copy")),
            Kept::All | Kept::Part => serde_json::from_str(self.get()),
        }
    }

    /// The value as JSON text. Fails only for maps with keys that are not strings.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self::new)
    }
}

impl From<&Value> for RawJson {
    fn from(value: &Value) -> Self {
        // A `Value` always serializes.
        Self::of(value).unwrap_or_default()
    }
}

impl From<Value> for RawJson {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

impl Default for RawJson {
    /// `{}`
    fn default() -> Self {
        Self::new(RawValue::from_string("{}".into()).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get() && self.kept == other.kept && (!self.is_trimmed() || self.size == other.size)
    }
}

impl std::fmt::Debug for RawJson {
    // May be large, and may contain secrets: must not be logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawJson({} bytes)", self.get().len())
    }
}

/// A JSON object that is a `T`, for settings in Kubernetes' own words. Fields of a newer Kubernetes stay.
pub fn json_object<T: DeserializeOwned>(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    match T::deserialize(&value) {
        Ok(_) if value.is_object() => Ok(value),
        Ok(_) => Err("not a JSON object".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// How deeply JSON text nests: 0 for a scalar, 1 for `[]`, 2 for `[[]]`. The text must be valid JSON.
pub fn depth(json: &str) -> usize {
    let (mut deepest, mut now, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn depth_counts_brackets_and_not_those_in_strings() {
        assert_eq!([depth("1"), depth("[]"), depth(r#"{"a":[{}]}"#)], [0, 1, 3]);
        assert_eq!(depth(r#"["[[[\"[[", "\\"]"#), 1);
    }

    #[test]
    fn deep_json_is_kept_and_no_deep_json_is_read() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let raw: RawJson = serde_json::from_str(&deep).unwrap();
        assert_eq!(raw.get(), deep);
        assert!(raw.read::<Value>().is_err());
        assert_eq!(serde_json::to_string(&raw).unwrap(), deep);
    }

    #[test]
    fn what_was_trimmed_is_neither_written_nor_taken_for_a_value() {
        let (large, small) = (RawJson::from(json!("x".repeat(SMALL))), RawJson::from(json!("x".repeat(SMALL - 2))));
        let (mut dropped, mut part, mut kept) = (large.clone(), large.clone(), small.clone());
        dropped.trim_large();
        part.trim_to(&json!({ "a": 1 }));
        kept.trim_large();
        assert!(kept == small && !kept.is_trimmed());
        for trimmed in [&dropped, &part] {
            assert!(trimmed.is_trimmed() && *trimmed != large && trimmed.size() == large.size());
            assert!(serde_json::to_string(trimmed).is_err() && serde_json::to_value(trimmed).is_err());
        }
        assert!(dropped.read::<Value>().is_err());
        assert_eq!(part.read::<Value>().unwrap(), json!({ "a": 1 }));
        let mut other = RawJson::from(json!("x".repeat(SMALL + 1)));
        other.trim();
        assert!(other != dropped && dropped == dropped.clone());
    }

    #[test]
    fn it_goes_through_a_value_and_back() {
        let value = json!({ "a": [1, "x"] });
        let raw: RawJson = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&raw).unwrap(), value);
        assert_eq!(RawJson::default().get(), "{}");
    }
}
