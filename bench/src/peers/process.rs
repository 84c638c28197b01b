//! A server of any system as a child process, which ends when this process ends, however that happens.

use std::fs::OpenOptions;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use holdfast_deploy::{Lifeline, free_port, spawn_tied};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take until it answers.
const READY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// How to start a server.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Its folder, where its log is written too.
    pub(crate) folder: PathBuf,
}

/// A server that runs. Dropping it kills it.
pub(crate) struct Process {
    launch: Launch,
    running: Option<(Child, Lifeline)>,
}

impl Process {
    pub(crate) fn start(launch: Launch) -> Result<Self> {
        let mut process = Self { launch, running: None };
        process.run()?;
        Ok(process)
    }

    /// Starts it; it must not run.
    pub(crate) fn run(&mut self) -> Result<()> {
        let Launch { name, program, args, folder } = &self.launch;
        std::fs::create_dir_all(folder)?;
        let file =
            |ending: &str| OpenOptions::new().create(true).append(true).open(folder.join(format!("{name}.{ending}")));
        let mut command = Command::new(program);
        command.args(args);
        let running = spawn_tied(&command, file("log")?, file("lock")?);
        self.running = Some(running.with_context(|| format!("cannot run {}", program.display()))?);
        Ok(())
    }

    pub(crate) fn name(&self) -> &str {
        &self.launch.name
    }

    /// The process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|(child, _)| child.id())
    }

    /// Kills it with SIGKILL, as a crash would.
    pub(crate) fn kill9(&mut self) -> Result<()> {
        if let Some((mut child, lifeline)) = self.running.take() {
            child.kill()?;
            child.wait()?;
            lifeline.let_go();
        }
        Ok(())
    }

    /// Ends it in order, and starts it again on the same folder.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.end(Duration::from_secs(20)).await?;
        self.run()
    }

    /// Ends it with SIGTERM, and with SIGKILL after `grace`.
    pub(crate) async fn end(&mut self, grace: Duration) -> Result<()> {
        let Some((child, _)) = &mut self.running else { return Ok(()) };
        kill_process(Pid::from_child(child), Signal::TERM)?;
        let begin = Instant::now();
        while begin.elapsed() < grace {
            if child.try_wait()?.is_some() {
                if let Some((_, lifeline)) = self.running.take() {
                    lifeline.let_go();
                }
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        self.kill9()
    }

    /// Waits until `answers` is true, and fails with the end of the log when the server ends before that, or takes
    /// longer than a minute.
    pub(crate) async fn ready(&mut self, answers: impl AsyncFn() -> bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            if let Some((child, _)) = &mut self.running
                && let Some(status) = child.try_wait()?
            {
                bail!("{} has ended: {status}\n{}", self.launch.name, self.log_end());
            }
            if tokio::time::timeout(Duration::from_secs(2), answers()).await.unwrap_or(false) {
                return Ok(());
            }
            if begin.elapsed() > READY {
                bail!("{} did not answer within {READY:?}\n{}", self.launch.name, self.log_end());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_end(&self) -> String {
        let path = self.launch.folder.join(format!("{}.log", self.launch.name));
        let mut text = Vec::new();
        // Without a log the error is shorter.
        let _ = std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            eprintln!("cannot kill {}: {error}", self.launch.name);
        }
    }
}

/// The names and process ids of those that run.
pub(crate) fn pids(processes: &[Process]) -> Vec<(String, u32)> {
    processes.iter().filter_map(|process| Some((process.name().to_owned(), process.pid()?))).collect()
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc tells no resident memory")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// A port that is free now.
pub(crate) fn port() -> Result<u16> {
    free_port().context("no port is free")
}

/// The program of this name on `PATH`, or else what to install.
pub(crate) fn program(name: &str, package: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| missing(name, package))
}

/// Says which package has what is missing.
pub(crate) fn missing(what: &str, package: &str) -> anyhow::Error {
    Missing(format!("{what} is not installed (apt-get install {package})")).into()
}

/// A system cannot run here because something is not installed.
#[derive(Debug)]
pub(crate) struct Missing(String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// The first line that a program prints about its version.
pub(crate) fn version(program: &Path, arg: &str) -> Result<String> {
    let output = Command::new(program).arg(arg).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or("unknown").to_owned())
}
