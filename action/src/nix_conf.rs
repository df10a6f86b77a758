//! Nix's configuration, as far as we must know it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// `include` inside `include`: more is a circle.
const MAX_DEPTH: usize = 8;

/// The machine's configuration below `root`, with what it includes in its place; `None` if there is none, or it cannot
/// be read from here.
pub fn read(root: &Path) -> Option<String> {
    read_file(root, &root.join("etc/nix/nix.conf"), MAX_DEPTH)
}

fn read_file(root: &Path, file: &Path, depth: usize) -> Option<String> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        // A link that leads nowhere is a file that is not mounted here, not one that is missing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && fs::symlink_metadata(file).is_err() => {
            return (file != root.join("etc/nix/nix.conf")).then(String::new);
        }
        Err(_) => return None,
    };
    let mut settings = String::new();
    for line in text.lines() {
        let words: Vec<_> = uncommented(line).split_ascii_whitespace().collect();
        match words.as_slice() {
            ["include" | "!include", name] if depth > 0 => {
                let name = Path::new(name);
                let included: PathBuf = match name.strip_prefix("/") {
                    Ok(absolute) => root.join(absolute),
                    Err(_) => file.parent()?.join(name),
                };
                settings.push_str(&read_file(root, &included, depth - 1)?);
            }
            _ => settings.push_str(line),
        }
        settings.push('\n');
    }
    Some(settings)
}

/// The words of a setting that is a list: the last that is said of it, and what `extra-` adds.
pub fn list(settings: &str, name: &str, default: &[&str]) -> Vec<String> {
    let mut list: Vec<String> = default.iter().map(|&word| word.to_owned()).collect();
    for line in settings.lines() {
        let Some((said, value)) = uncommented(line).split_once('=') else { continue };
        let values = value.split_ascii_whitespace().map(str::to_owned);
        match said.trim() {
            said if said == name => list = values.collect(),
            said if said.strip_prefix("extra-") == Some(name) => list.extend(values),
            _ => {}
        }
    }
    list
}

fn uncommented(line: &str) -> &str {
    line.split('#').next().unwrap_or_default()
}
