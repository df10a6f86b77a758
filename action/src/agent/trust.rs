//! Whether the Nix daemon takes settings, substituters above all, from the job's user.

use std::{fs, path::Path};

use super::messages::Trust;
use crate::nix_conf;

/// Finds out by the files below `root`, where the host's `/nix`, `/etc/nix`, `/etc/passwd` and `/etc/group`
/// are mounted.
pub fn find_out(root: &Path, user: u32) -> Trust {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let daemon = root.join("nix/var/nix/daemon-socket/socket").exists();
    let settings = nix_conf::read(root);
    judge(user, daemon, settings.as_deref(), &read("etc/passwd"), &read("etc/group"))
}

/// Root writes to the store itself; without a daemon everybody does who can.
fn judge(user: u32, daemon: bool, settings: Option<&str>, passwd: &str, group: &str) -> Trust {
    if user == 0 || !daemon {
        return Trust::Trusted;
    }
    let Some(settings) = settings else { return Trust::Unknown };
    let (name, groups) = names(user, passwd, group);
    let trusted = nix_conf::list(settings, "trusted-users", &["root"]);
    let is_trusted = trusted.iter().any(|entry| match entry.strip_prefix('@') {
        Some(group) => groups.iter().any(|own| own == group),
        None => entry == "*" || Some(entry) == name.as_ref(),
    });
    match name {
        _ if is_trusted => Trust::Trusted,
        Some(name) => Trust::Untrusted(name),
        // Somebody of another list of users than the machine's (LDAP).
        None => Trust::Unknown,
    }
}

/// The user's name and groups by `passwd` and `group`.
fn names(user: u32, passwd: &str, group: &str) -> (Option<String>, Vec<String>) {
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 4 && fields[2].parse() == Ok(user));
    let Some(entry) = entry else { return (None, Vec::new()) };
    let (name, primary) = (entry[0], entry[3]);
    let groups = group.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [group, _, id, members] = fields.as_slice() else { return None };
        (*id == primary || members.split(',').any(|member| member == name)).then(|| (*group).to_owned())
    });
    (Some(name.to_owned()), groups.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nrunner:x:1001:127:,,,:/home/runner:/bin/bash\nbad\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:admin,runner\ndocker:x:127:\nwheel:x:5:runner2\n";

    fn of(settings: &str) -> Trust {
        judge(1001, true, Some(settings), PASSWD, GROUP)
    }

    #[test]
    fn trusted_by_name_by_group_or_with_everybody() {
        for settings in [
            "trusted-users = root runner",
            "trusted-users = @sudo",
            "trusted-users = @docker # its primary group",
            "trusted-users = *",
            "extra-trusted-users = runner",
            "trusted-users = nobody\ntrusted-users = runner\n",
        ] {
            assert_eq!(of(settings), Trust::Trusted, "{settings}");
        }
    }

    #[test]
    fn not_trusted_without_such_a_line() {
        for settings in [
            "",
            "# trusted-users = runner",
            "trusted-users = root @wheel",
            "trusted-users = runner\ntrusted-users = root",
            "trusted-users = runner2 unner",
            "allowed-users = *",
        ] {
            assert_eq!(of(settings), Trust::Untrusted("runner".into()), "{settings}");
        }
    }

    #[test]
    fn without_a_daemon_or_as_root_nobody_need_trust() {
        assert_eq!(judge(1001, false, None, "", ""), Trust::Trusted);
        assert_eq!(judge(0, true, None, "", ""), Trust::Trusted);
        assert_eq!(judge(1001, true, None, PASSWD, GROUP), Trust::Unknown);
        assert_eq!(judge(4242, true, Some(""), PASSWD, GROUP), Trust::Unknown);
    }

    #[test]
    fn includes_are_followed_and_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        let nix = dir.path().join("etc/nix");
        fs::create_dir_all(&nix).unwrap();
        fs::create_dir_all(dir.path().join("nix/var/nix/daemon-socket")).unwrap();
        fs::write(dir.path().join("nix/var/nix/daemon-socket/socket"), "").unwrap();
        fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
        assert_eq!(find_out(dir.path(), 1001), Trust::Unknown, "no configuration mounted");

        fs::write(nix.join("nix.conf"), "!include missing.conf\n!include nix.custom.conf\n").unwrap();
        fs::write(nix.join("nix.custom.conf"), "trusted-users = runner\ninclude /etc/nix/nix.conf\n")
            .unwrap();
        assert_eq!(find_out(dir.path(), 1001), Trust::Trusted);

        fs::remove_file(nix.join("nix.conf")).unwrap();
        std::os::unix::fs::symlink("/nowhere/nix.conf", nix.join("nix.conf")).unwrap();
        assert_eq!(find_out(dir.path(), 1001), Trust::Unknown, "a link that leads nowhere from here");
    }
}
