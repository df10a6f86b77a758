//! `NIX_CONFIG`: what later steps read through.
//!
//! The lines stand between two comments that carry the agent's id, so that they can be taken out again
//! without undoing what other steps have set meanwhile.

use std::fmt::Write as _;

use larder_protocol::PublicKey;
use url::Url;

/// Where Nix shall read, and by which keys it checks what it gets.
#[derive(Debug, Clone)]
pub struct Substituter {
    /// The URL, which a `Url` keeps free of white space and line ends.
    pub url: Url,
    /// The keys.
    pub public_keys: Vec<PublicKey>,
}

impl Substituter {
    /// The line by which Nix's netrc lets it read there, with `TOKEN` where the token goes. A netrc knows hosts, not
    /// ports or paths.
    pub fn netrc(&self) -> String {
        format!("machine {} login larder password TOKEN", self.url.host_str().unwrap_or_default())
    }

    /// The settings, one a line. Why these: without `fallback` Nix 2.8 to 2.31 fail a build when a substituter
    /// fails, their `connect-timeout` is unlimited through 2.26, and a path that was absent once would stay so
    /// for an hour.
    pub fn settings(&self) -> String {
        let keys: Vec<_> = self.public_keys.iter().map(ToString::to_string).collect();
        format!(
            "extra-substituters = {}\nextra-trusted-public-keys = {}\nfallback = true\nconnect-timeout = 5\n\
             narinfo-cache-negative-ttl = 0\n",
            self.url.as_str().trim_end_matches('/'),
            keys.join(" "),
        )
    }
}

/// `old` and behind it the substituter's settings, in a block of this id.
pub fn add(old: Option<&str>, id: &str, substituter: &Substituter) -> String {
    let mut text = String::new();
    if let Some(old) = old.filter(|old| !old.trim().is_empty()) {
        text.push_str(old.trim_end_matches('\n'));
        text.push('\n');
    }
    let _ = write!(text, "{}\n{}{}", begin(id), substituter.settings(), end(id));
    text
}

/// `current` without the block of this id; `None` where it has no such block.
pub fn remove(current: &str, id: &str) -> Option<String> {
    let (begin, end) = (begin(id), end(id));
    current.lines().any(|line| line == begin).then(|| {
        let mut inside = false;
        let kept: Vec<_> = current
            .lines()
            .filter(|line| {
                inside |= *line == begin;
                let keep = !inside;
                inside &= *line != end;
                keep
            })
            .collect();
        kept.join("\n")
    })
}

fn begin(id: &str) -> String {
    format!("# larder {id}: begin")
}

fn end(id: &str) -> String {
    format!("# larder {id}: end")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The public cache's.
    const KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

    fn substituter() -> Substituter {
        Substituter {
            url: "http://127.0.0.1:4711/0123abcd".parse().unwrap(),
            public_keys: vec![KEY.parse().unwrap()],
        }
    }

    #[test]
    fn settings_stand_behind_what_was_there() {
        let text =
            add(Some("experimental-features = nix-command\nfallback = false\n\n"), "a1", &substituter());
        assert_eq!(
            text,
            "experimental-features = nix-command\nfallback = false\n# larder a1: begin\n\
             extra-substituters = http://127.0.0.1:4711/0123abcd\n\
             extra-trusted-public-keys = cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=\n\
             fallback = true\nconnect-timeout = 5\nnarinfo-cache-negative-ttl = 0\n# larder a1: end"
        );
    }

    #[test]
    fn taking_them_out_leaves_what_other_steps_added() {
        let ours = add(Some("a = b"), "a1", &substituter());
        let two = add(Some(&ours), "b2", &substituter());
        let later = format!("{two}\nc = d");
        let without = remove(&later, "a1").unwrap();
        assert!(
            without.starts_with("a = b\n# larder b2: begin\n") && without.ends_with("\nc = d"),
            "{without}"
        );
        assert_eq!(remove(&without, "b2").unwrap(), "a = b\nc = d");
        assert_eq!(remove(&add(None, "a1", &substituter()), "a1").unwrap(), "");
        assert_eq!(remove("a = b", "a1"), None);
    }

    #[test]
    fn a_url_cannot_carry_a_setting() {
        // A newline in it is dropped by the parser; a space is encoded.
        let url: Url = "https://cache.example/x\nsandbox = false".parse().unwrap();
        let text = Substituter { url, ..substituter() }.settings();
        assert!(text.lines().all(|line| !line.starts_with("sandbox")), "{text}");
        assert_eq!(text.lines().count(), 5);
    }
}
