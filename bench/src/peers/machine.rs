//! What the figures depend on besides the systems: the machine, its disk, and how busy it is.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::measure::Measured;

const FLUSHES: usize = 300;

#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) file_system: String,
    /// `write` of 700 bytes and `fdatasync`, one after the other.
    pub(crate) flush_p50_ms: f64,
    pub(crate) flush_p99_ms: f64,
    /// The average number of processes that ran or waited in the last minute.
    pub(crate) load: String,
}

impl Machine {
    /// Looks at this machine and the disk of `folder`.
    pub(crate) fn look(folder: &Path) -> Result<Self> {
        let flushes = flushes(folder)?;
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = value(&text("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory: u64 = memory.trim_end_matches("kB").trim().parse().unwrap_or_default();
        Ok(Self {
            cpu: value(&text("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: memory / 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(&text("/proc/self/mountinfo"), &folder.canonicalize()?),
            flush_p50_ms: flushes.p50().as_secs_f64() * 1e3,
            flush_p99_ms: flushes.quantile(0.99).as_secs_f64() * 1e3,
            load: text("/proc/loadavg").split(' ').take(1).collect(),
        })
    }
}

fn flushes(folder: &Path) -> Result<Measured> {
    let begin = Instant::now();
    let mut file = tempfile::tempfile_in(folder).context("cannot write to the folder for measurements")?;
    let mut times = Vec::new();
    for _ in 0..FLUSHES {
        let start = Instant::now();
        file.seek(SeekFrom::End(0))?;
        file.write_all(&[b'x'; 700])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Measured::of(times, begin.elapsed())
}

/// The type of the file system that has `folder`, from the text of `/proc/self/mountinfo`.
fn file_system(mounts: &str, folder: &Path) -> String {
    let mounts = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        Some((before.split(' ').nth(4)?, after.split(' ').next()?))
    });
    let best = mounts.filter(|(at, _)| folder.starts_with(at)).max_by_key(|(at, _)| at.len());
    best.map_or("unknown", |(_, kind)| kind).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_deepest_mount() {
        let mounts = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n23 22 0:5 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x")), "tmpfs");
        assert_eq!(file_system(mounts, Path::new("/home")), "ext4");
        assert_eq!(file_system("", Path::new("/home")), "unknown");
    }
}
