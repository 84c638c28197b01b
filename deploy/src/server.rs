//! One nats-server on loopback, as a child process: start, stop, kill and pause.
//!
//! [`Server::start`] returns when the server accepts connections. The nats-server ends when its [`Server`] is dropped
//! or this process ends.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::conf::Conf;
use crate::data::DataFolder;
use crate::error::StartError;
use crate::lifeline::{self, Lifeline};
use crate::port::free_port;

/// A server with a large store reads it before it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(10);

/// How long a killed server may take to end.
pub const KILL_TIME: Duration = Duration::from_millis(400);

/// How many ports are tried when the server may have any.
const PORT_TRIES: usize = 5;

/// How to run one nats-server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The executable, from [`Finder::find`](crate::Finder::find).
    pub binary: PathBuf,
    /// The port on 127.0.0.1, or any free one.
    pub port: Option<u16>,
    /// The folder for streams, log and settings; made if it does not exist.
    pub data: PathBuf,
    /// The name of the server; in a cluster it must be unique, and stay the same.
    pub name: String,
    /// The settings.
    pub conf: Conf,
    /// Environment variables that the settings read, such as passwords.
    pub variables: Vec<(String, String)>,
    /// Further arguments, such as those of a cluster.
    pub args: Vec<String>,
}

impl ServerOptions {
    /// A single server on a free port, without a login.
    pub fn new(binary: impl Into<PathBuf>, data: impl Into<PathBuf>, name: &str) -> Self {
        Self {
            binary: binary.into(),
            port: None,
            data: data.into(),
            name: name.to_owned(),
            conf: Conf::no_login(),
            variables: Vec::new(),
            args: Vec::new(),
        }
    }
}

/// A nats-server that we started.
pub struct Server {
    options: ServerOptions,
    port: u16,
    data: DataFolder,
    /// The offset in the log at which the current run begins.
    log_begin: u64,
    /// Set until the process was waited for: until then its id cannot be reused.
    running: Option<Running>,
}

struct Running {
    child: Child,
    lifeline: Lifeline,
}

impl Server {
    /// Starts a server, and waits until it accepts connections.
    ///
    /// # Errors
    /// [`StartError`]. No process is left running then.
    pub async fn start(options: ServerOptions) -> Result<Self, StartError> {
        if let Some(port) = options.port {
            return Self::start_on(options, port).await;
        }
        let mut tried = 0;
        loop {
            let port = free_port().ok_or(StartError::NoFreePort)?;
            tried += 1;
            match Self::start_on(options.clone(), port).await {
                // Another process took the port after it was found free.
                Err(StartError::PortTaken { port: taken }) if taken == port && tried < PORT_TRIES => {}
                other => return other,
            }
        }
    }

    async fn start_on(options: ServerOptions, port: u16) -> Result<Self, StartError> {
        let data = DataFolder::create(&options.data)?;
        let mut server = Self { options, port, data, log_begin: 0, running: None };
        server.run().await?;
        Ok(server)
    }

    /// Restarts the server on the same port and with the same data. If it runs, it is killed first.
    ///
    /// # Errors
    /// [`StartError`], as with [`Server::start`].
    pub async fn restart(&mut self) -> Result<(), StartError> {
        self.kill9().map_err(|e| StartError::io("kill the server of", self.data.path(), e))?;
        self.run().await
    }

    async fn run(&mut self) -> Result<(), StartError> {
        let lock = self.data.lock().await?;
        let conf = &self.options.conf;
        conf.write(self.data.path()).map_err(|e| StartError::io("write the settings in", self.data.path(), e))?;
        self.data.forget_ports()?;
        let (log, begin) = self.data.open_log()?;
        self.log_begin = begin;
        let (child, lifeline) =
            lifeline::spawn(&self.command(), log, lock).map_err(|e| StartError::io("run", &self.options.binary, e))?;
        self.running = Some(Running { child, lifeline });
        let ready = self.ready().await;
        if ready.is_err() {
            self.end();
        }
        ready
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.options.binary);
        command.arg("-c").arg(self.options.conf.main_in(self.data.path()));
        command.envs(self.options.variables.iter().map(|(name, value)| (name, value)));
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string()]);
        command.args(["-n", &self.options.name]);
        command.arg("-sd").arg(self.data.path());
        command.arg("-P").arg(self.data.pid());
        command.arg("--ports_file_dir").arg(self.data.path());
        command.args(&self.options.args);
        command
    }

    /// Waits for the server's ports file, then for an answer on its port. The port alone proves nothing: another
    /// process may listen there.
    async fn ready(&mut self) -> Result<(), StartError> {
        let deadline = Instant::now() + READY_DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.exited() {
                return Err(self.why_ended(status));
            }
            let pid = self.pid().unwrap_or_default();
            if self.data.has_ports(pid) && greets(self.port).await {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(StartError::NotReady { log: self.data.log(), last_lines: self.log_end() })
    }

    fn why_ended(&self, status: ExitStatus) -> StartError {
        let last_lines = self.log_end();
        match port_in_use(&last_lines) {
            Some(port) => StartError::PortTaken { port },
            None => StartError::Ended { status, log: self.data.log(), last_lines },
        }
    }

    /// Where to connect to, as in `nats://127.0.0.1:4222`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name of the server.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The process id, while the server runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// The log file.
    pub fn log(&self) -> PathBuf {
        self.data.log()
    }

    /// The last lines that the server logged since it was last started.
    pub fn log_end(&self) -> String {
        self.data.last_lines(self.log_begin)
    }

    /// Whether the server has ended by itself since the last call. An end by [`Server::stop`] or [`Server::kill9`] does
    /// not count.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = match self.running.as_mut()?.child.try_wait() {
            Ok(status) => status?,
            Err(error) => {
                tracing::warn!(%error, "cannot ask for the state of nats-server");
                return None;
            }
        };
        self.let_go();
        Some(status)
    }

    /// Waits until the server has ended by itself. Never returns for one that was stopped.
    pub async fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            tokio::time::sleep(POLL * 10).await;
        }
    }

    /// Stops the server with SIGTERM, and with SIGKILL if it still runs after `grace`; takes at most [`KILL_TIME`]
    /// longer.
    ///
    /// # Errors
    /// When the process cannot be signalled, or does not end although it was killed, for example because it waits for a
    /// broken disk.
    pub async fn stop(&mut self, grace: Duration) -> io::Result<()> {
        if self.running.is_none() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        if self.exits_within(grace).await {
            return Ok(());
        }
        self.signal(Signal::KILL)?;
        if self.exits_within(KILL_TIME).await {
            return Ok(());
        }
        // It is not waited for any longer, because that could take for ever.
        self.running = None;
        Err(io::Error::new(io::ErrorKind::TimedOut, "nats-server was killed and has not ended"))
    }

    async fn exits_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        loop {
            if self.exited().is_some() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills the server with SIGKILL, as a crash would; nothing happens if it does not run.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn kill9(&mut self) -> io::Result<()> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        running.child.kill()?;
        running.child.wait()?;
        self.let_go();
        Ok(())
    }

    /// Freezes the server with SIGSTOP: its connections stay open and nothing answers.
    ///
    /// Returns when it is stopped. Sending the signal does not prove that: a thread on another processor may run on for
    /// a moment, and may still answer.
    ///
    /// # Errors
    /// When the server does not run.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)?;
        let stopped_or_gone = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        loop {
            match waitid(WaitId::Pid(self.pid_to_signal()?), stopped_or_gone) {
                Err(Errno::INTR) => {}
                status => return Ok(status.map(drop)?),
            }
        }
    }

    /// Resumes a paused server.
    ///
    /// # Errors
    /// When the server does not run.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(self.pid_to_signal()?, signal)?)
    }

    fn pid_to_signal(&self) -> io::Result<Pid> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "this nats-server does not run");
        self.running.as_ref().map(|running| Pid::from_child(&running.child)).ok_or_else(gone)
    }

    fn end(&mut self) {
        if let Err(error) = self.kill9() {
            tracing::warn!(%error, "cannot kill nats-server");
        }
    }

    fn let_go(&mut self) {
        if let Some(running) = self.running.take() {
            running.lifeline.let_go();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether a server answers on `port` with the line that every NATS connection begins with.
async fn greets(port: u16) -> bool {
    let greeting = async {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let mut begin = [0; 5];
        connection.read_exact(&mut begin).await?;
        io::Result::Ok(begin == *b"INFO ")
    };
    let deadline = Duration::from_secs(1);
    matches!(tokio::time::timeout(deadline, greeting).await, Ok(Ok(true)))
}

/// The port in `listen tcp 127.0.0.1:4222: bind: address already in use`.
fn port_in_use(log: &str) -> Option<u16> {
    let (before, _) = log.split_once(": bind: address already in use")?;
    before.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests;
