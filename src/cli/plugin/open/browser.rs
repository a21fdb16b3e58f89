//! Starts a browser, if there is one. Used by [`super`].

use std::{
    env,
    process::{Command, Stdio},
};

/// Opens an address with the first command that there is. It goes on by itself; without any, nothing happens.
pub(super) fn open(url: &str) {
    let variable = |name: &str| env::var(name).ok();
    start(commands(variable, cfg!(target_os = "macos"), url));
}

/// Starts the first that there is. Returns whether there is one.
fn start(commands: Vec<Vec<String>>) -> bool {
    for words in commands {
        let Some((program, arguments)) = words.split_first() else { continue };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // What ends this command at the terminal doesn't end the browser.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        if command.spawn().is_ok() {
            return true;
        }
    }
    false
}

/// The commands that may open an address, in their order: those of `BROWSER`, with the address in place of `%s` or last, and
/// the system's own, on Linux where there is a screen.
fn commands(variable: impl Fn(&str) -> Option<String>, is_mac: bool, url: &str) -> Vec<Vec<String>> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut found = Vec::new();
    for browser in set("BROWSER").iter().flat_map(|all| all.split(':')) {
        let mut words: Vec<String> = browser.split_whitespace().map(|word| word.replace("%s", url)).collect();
        if !browser.contains("%s") && !words.is_empty() {
            words.push(url.into());
        }
        found.push(words);
    }
    if is_mac {
        found.push(vec!["open".into(), url.into()]);
    } else if set("DISPLAY").is_some() || set("WAYLAND_DISPLAY").is_some() {
        found.push(vec!["xdg-open".into(), url.into()]);
    }
    found.retain(|words| !words.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_there_is_started() {
        let of = |commands: &[&[&str]]| -> Vec<Vec<String>> {
            commands.iter().map(|words| words.iter().map(|word| word.to_string()).collect()).collect()
        };
        let file = std::env::temp_dir().join(format!("koco-browser-{}", std::process::id()));
        let path = file.display().to_string();
        assert!(!start(of(&[&["/no/such/browser", "a"], &[]])));
        assert!(start(of(&[&["/no/such/browser", "a"], &["touch", &path], &["/no/such/browser"]])));
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !file.exists() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        std::fs::remove_file(&file).expect("it was started");
    }

    #[test]
    fn browsers_are_tried_in_their_order() {
        let of = |variables: &[(&str, &str)], is_mac| -> Vec<String> {
            let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
            commands(value, is_mac, "http://a/%s b").iter().map(|words| words.join("|")).collect()
        };
        assert_eq!(of(&[], false), Vec::<String>::new(), "nothing to show it on");
        assert_eq!(of(&[("DISPLAY", ":0")], false), ["xdg-open|http://a/%s b"]);
        assert_eq!(of(&[("DISPLAY", "")], true), ["open|http://a/%s b"]);
        let all = of(&[("BROWSER", "firefox --new-tab %s::w3m"), ("WAYLAND_DISPLAY", "w")], false);
        assert_eq!(all, ["firefox|--new-tab|http://a/%s b", "w3m|http://a/%s b", "xdg-open|http://a/%s b"]);
    }
}
