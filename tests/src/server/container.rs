//! A nats-server in a container, by testcontainers: the image that `deploy/compose.yaml` runs too.
//!
//! testcontainers removes a container when its value is dropped, which never happens to a shared one. So a shell waits
//! for the end of this process and then removes the container; it needs the command `docker` or `podman`.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_deploy::SERVER_CONF;
use testcontainers::core::{IntoContainerPort, WaitFor, client};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

/// The image, with its version.
pub(super) const IMAGE: &str = "nats:2.15.1";

const PORT: u16 = 4222;

/// How long to wait for an engine, which answers at once if it runs.
const ENGINE_DEADLINE: Duration = Duration::from_secs(2);

/// How long a start may take, if the image must be pulled first.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// Waits for the end of standard input, which comes when our process ends.
const REMOVE_WHEN_WE_END: &str = r#"
read -r _
for engine in docker podman; do
  command -v $engine && $engine rm --force --volumes "$1" && exit
done
"#;

/// A running container.
pub(super) struct Container {
    container: ContainerAsync<GenericImage>,
    url: String,
    /// The shell that waits for the end of its standard input.
    _remover: Child,
}

impl Container {
    /// Starts a container, and waits until its server accepts connections.
    pub(super) async fn start() -> Result<Self> {
        let (name, tag) = IMAGE.split_once(':').context("an image has a version")?;
        let container = GenericImage::new(name, tag)
            .with_exposed_port(PORT.tcp())
            .with_wait_for(WaitFor::message_on_stderr("Server is ready"))
            .with_copy_to("/nats.conf", SERVER_CONF.as_bytes().to_vec())
            .with_cmd(["-c", "/nats.conf", "-sd", "/data"])
            .with_startup_timeout(START_DEADLINE)
            .start()
            .await?;
        let remover = remove_when_we_end(container.id()).context("running sh")?;
        let host = container.get_host().await?;
        let port = container.get_host_port_ipv4(PORT.tcp()).await?;
        let url = format!("nats://{host}:{port}");
        Ok(Self { container, url, _remover: remover })
    }

    pub(super) fn id(&self) -> &str {
        &self.container.id()[..12]
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

/// Whether a container engine answers, at `DOCKER_HOST` or the engine's usual socket.
pub(super) async fn engine_answers() -> bool {
    let ask = async {
        let engine = client::docker_client_instance().await.ok()?;
        engine.ping().await.ok()
    };
    matches!(tokio::time::timeout(ENGINE_DEADLINE, ask).await, Ok(Some(_)))
}

fn remove_when_we_end(id: &str) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", REMOVE_WHEN_WE_END, "sh", id])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C in a terminal must not reach the shell, which has to remove the container afterwards.
        .process_group(0)
        .spawn()
}
