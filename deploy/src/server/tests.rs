//! A real nats-server: that it starts, stops, says what is in its way, and does not stay behind.

use std::net::TcpListener;

use anyhow::{Context, Result};
use rustix::process::test_kill_process;

use super::*;
use crate::Finder;

const GRACE: Duration = Duration::from_secs(10);

async fn options(folder: &tempfile::TempDir) -> Result<ServerOptions> {
    let binary = Finder::from_env().find(&|line| eprintln!("{line}")).await?;
    Ok(ServerOptions::new(binary.path, folder.path(), "test"))
}

fn is_running(pid: u32) -> bool {
    i32::try_from(pid).ok().and_then(Pid::from_raw).is_some_and(|pid| test_kill_process(pid).is_ok())
}

#[tokio::test]
async fn a_server_starts_on_loopback_keeps_its_data_and_stops() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(options(&folder).await?).await?;
    let pid = server.pid().context("it runs")?;
    let client = async_nats::connect(server.url()).await?;
    let info = client.server_info();
    assert!(info.jetstream && info.host == "127.0.0.1", "{info:?}");
    assert_eq!(info.max_payload, 8 * 1024 * 1024);
    let jetstream = async_nats::jetstream::new(client);
    let stream = async_nats::jetstream::stream::Config { name: "KEPT".to_owned(), ..Default::default() };
    jetstream.create_stream(stream).await?;

    server.restart().await?;
    assert_ne!(server.pid(), Some(pid));
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await?);
    jetstream.get_stream("KEPT").await?;

    let pid = server.pid().context("it runs")?;
    server.stop(GRACE).await?;
    assert_eq!(server.pid(), None);
    assert!(!is_running(pid));
    assert!(server.log_end().contains("Server Exiting"), "{}", server.log_end());
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = stranger.local_addr()?.port();
    let mut options = options(&folder).await?;
    options.port = Some(port);
    let error = Server::start(options).await.err().context("it is taken")?;
    assert_eq!(error.to_string(), format!("port {port} is taken"));
    Ok(())
}

#[tokio::test]
async fn a_port_taken_by_another_nats_server_is_named_too() -> Result<()> {
    let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let server = Server::start(options(&one).await?).await?;
    let mut options = options(&two).await?;
    options.port = Some(server.port());
    let error = Server::start(options).await.err().context("it is taken")?;
    assert!(matches!(error, StartError::PortTaken { port } if port == server.port()), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_data_folder_in_use_is_refused_with_the_pid_of_who_uses_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(options(&folder).await?).await?;
    let error = Server::start(options(&folder).await?).await.err().context("it is in use")?;
    let message = error.to_string();
    let pid = server.pid().context("it runs")?;
    assert!(message.ends_with(&format!("in use by a running nats-server (pid {pid})")), "{message}");
    Ok(())
}

#[tokio::test]
async fn settings_that_are_wrong_are_shown_with_the_servers_own_words() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut options = options(&folder).await?;
    options.conf = "max_payload: lots".to_owned().into();
    let error = Server::start(options).await.err().context("it is wrong")?;
    let message = error.to_string();
    assert!(message.contains("nats.conf:1:") && message.contains("ended at once"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_server_can_be_paused_killed_and_dropped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(options(&folder).await?).await?;
    server.pause()?;
    assert!(!greets(server.port()).await, "a paused server does not answer");
    server.resume()?;
    assert!(greets(server.port()).await);

    server.pause()?;
    server.kill9()?;
    assert!(server.pause().is_err(), "there is nothing left to pause");
    server.restart().await?;
    let pid = server.pid().context("it runs")?;
    drop(server);
    assert!(!is_running(pid));
    Ok(())
}

#[tokio::test]
async fn a_server_that_ends_by_itself_is_noticed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(options(&folder).await?).await?;
    server.signal(Signal::KILL)?;
    let status = tokio::time::timeout(GRACE, server.wait()).await?;
    assert!(!status.success());
    assert_eq!(server.pid(), None);
    Ok(())
}

/// What happens to the server of a process that ends without a word: its end of the pipe is closed.
#[tokio::test]
async fn a_server_ends_with_the_process_that_started_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(options(&folder).await?).await?;
    let Running { mut child, lifeline } = server.running.take().context("it runs")?;
    drop(lifeline);
    let ended = tokio::task::spawn_blocking(move || child.wait());
    let status = tokio::time::timeout(GRACE, ended).await???;
    assert!(status.success(), "it was asked to stop, and did: {status}");
    Ok(())
}

#[test]
fn the_port_in_use_is_read_from_the_log() {
    let log = "[1] x [FTL] Error listening on port: 127.0.0.1:4222, \
               \"listen tcp 127.0.0.1:4222: bind: address already in use\"\nmore";
    assert_eq!(port_in_use(log), Some(4222));
    assert_eq!(port_in_use("something else"), None);
}

#[tokio::test]
async fn a_paused_server_is_killed_when_its_time_is_over() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = Server::start(options(&folder).await?).await?;
    let pid = server.pid().context("it runs")?;
    server.pause()?;
    let (grace, begun) = (Duration::from_millis(300), Instant::now());
    server.stop(grace).await?;
    assert!(begun.elapsed() < grace + KILL_TIME + Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!is_running(pid));
    Ok(())
}
