//! Tests of the test servers: tests get the right server, and no process is left running.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::wait::until;

const DEADLINE: Duration = Duration::from_secs(30);

/// The file to which [`a_process_with_a_shared_server`] writes its URL.
const URL_FILE_VARIABLE: &str = "HOLDFAST_TEST_URL_FILE";

#[tokio::test]
async fn a_shared_server_is_one_server_with_our_settings() -> Result<()> {
    let (one, two) = tokio::try_join!(shared(), shared())?;
    assert_eq!(one.url(), two.url());
    let client = async_nats::connect(one.url()).await?;
    let info = client.server_info();
    assert!(info.jetstream, "{info:?}");
    assert_eq!(info.max_payload, 8 * 1024 * 1024);
    Ok(())
}

#[tokio::test]
async fn a_server_of_ones_own_can_be_set_up_wrongly() -> Result<()> {
    let server = own(|options| options.conf = "max_payload: 1000".into()).await?;
    let client = async_nats::connect(server.url()).await?;
    assert!(!client.server_info().jetstream);
    Ok(())
}

#[tokio::test]
async fn no_server_stays_behind_when_the_process_of_a_test_is_killed() -> Result<()> {
    let (mut process, server) = process_with_a_shared_server("wait").await?;
    process.kill()?;
    assert_eq!(process.wait()?.signal(), Some(9));
    until("the server to be gone", DEADLINE, async || (!is_reachable(server)).then_some(())).await;
    Ok(())
}

#[tokio::test]
async fn no_server_stays_behind_when_the_process_of_a_test_ends() -> Result<()> {
    let (mut process, server) = process_with_a_shared_server("end").await?;
    assert!(process.wait()?.success());
    until("the server to be gone", DEADLINE, async || (!is_reachable(server)).then_some(())).await;
    Ok(())
}

/// Runs this test binary once more, to do [`a_process_with_a_shared_server`].
async fn process_with_a_shared_server(then: &str) -> Result<(std::process::Child, SocketAddr)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("url");
    let process = Command::new(env::current_exe()?)
        .args(["--exact", "server::tests::a_process_with_a_shared_server", "--ignored"])
        .env(URL_FILE_VARIABLE, &file)
        .env("HOLDFAST_TEST_THEN", then)
        .spawn()?;
    let address = until("the other process's server", DEADLINE, async || read_address(&file)).await;
    Ok((process, address))
}

#[tokio::test]
#[ignore = "run by other tests, in a process of its own"]
async fn a_process_with_a_shared_server() -> Result<()> {
    let file = env::var(URL_FILE_VARIABLE)?;
    std::fs::write(file, format!("{}\n", shared().await?.url()))?;
    if env::var("HOLDFAST_TEST_THEN")? == "wait" {
        tokio::time::sleep(DEADLINE).await;
    }
    Ok(())
}

fn read_address(file: &Path) -> Option<SocketAddr> {
    let url = std::fs::read_to_string(file).ok()?;
    // The file is complete once it has a line end.
    let address = url.strip_suffix('\n')?.strip_prefix("nats://")?;
    address.replace("localhost", "127.0.0.1").parse().ok()
}

fn is_reachable(server: SocketAddr) -> bool {
    TcpStream::connect_timeout(&server, Duration::from_secs(1)).is_ok()
}
