//! What a client and a service of the first release of version 1 said to each other. It is never changed: pages that came
//! later stand behind, as they were when they came.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

/// A request and its answer. In both `PUSH` and `PREFETCH` stand for names that the service gives, `ID_TOKEN` for a job's; in
/// an answer `any` for what may be anything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// Method and page.
    pub asks: String,
    /// What is sent as JSON,
    pub sends: Option<Value>,
    /// or as bytes, in hexadecimal.
    pub sends_bytes: Option<String>,
    pub status: u16,
    pub is_told: Option<Value>,
    pub is_told_bytes: Option<String>,
}

pub static FIRST: LazyLock<Vec<Exchange>> =
    LazyLock::new(|| serde_json::from_str(include_str!("first.json")).unwrap());

/// Whether an answer has all that the first release would have said.
#[track_caller]
pub fn assert_says(told: &Value, recorded: &Value, asked: &str) {
    match (recorded, told) {
        (Value::String(any), _) if any == "any" => {}
        (Value::Object(recorded), Value::Object(told)) => {
            for (key, recorded) in recorded {
                let told = told.get(key).unwrap_or_else(|| panic!("{asked}: no {key} in {told:?}"));
                assert_says(told, recorded, asked);
            }
        }
        (Value::Array(recorded), Value::Array(told)) => {
            assert_eq!(told.len(), recorded.len(), "{asked}: {told:?}");
            recorded.iter().zip(told).for_each(|(recorded, told)| assert_says(told, recorded, asked));
        }
        _ => assert_eq!(told, recorded, "{asked}"),
    }
}

/// Leaves of an answer what the first release would have said.
pub fn as_first(told: &mut Value, recorded: &Value) {
    match (recorded, told) {
        (Value::Object(recorded), Value::Object(told)) => {
            told.retain(|key, _| recorded.contains_key(key));
            told.iter_mut().for_each(|(key, told)| as_first(told, &recorded[key]));
        }
        (Value::Array(recorded), Value::Array(told)) => {
            if let Some(recorded) = recorded.first() {
                told.iter_mut().for_each(|told| as_first(told, recorded));
            }
        }
        _ => {}
    }
}
