//! What the kernel holds for an agent.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::run;

/// Kind and id of every BPF program, map and link, with its name.
pub type KernelObjects = BTreeMap<(&'static str, u64), String>;

/// All BPF objects of the kernel, by `bpftool`.
///
/// # Errors
/// `bpftool` is missing or may not ask.
pub fn bpf_objects() -> Result<KernelObjects> {
    let mut objects = BTreeMap::new();
    for kind in ["prog", "map", "link"] {
        let text = run(Command::new("bpftool").args(["-j", kind, "show"]))?;
        let list: Value = serde_json::from_str(&text).with_context(|| format!("bpftool {kind} show"))?;
        for entry in list.as_array().into_iter().flatten() {
            if let Some(id) = entry.get("id").and_then(Value::as_u64) {
                let name = entry.get("name").or_else(|| entry.get("type"));
                let name = name.and_then(Value::as_str).unwrap_or("?");
                objects.insert((kind, id), name.to_owned());
            }
        }
    }
    Ok(objects)
}
