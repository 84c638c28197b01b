//! A proxy to a nats-server that a test can clog: the client's bytes are held back and arrive late, unchanged.
//!
//! The server's bytes always get through. So a worker behind a clogged link receives requests and believes that it
//! writes.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// A port on loopback that leads to a server.
pub struct Link {
    port: u16,
    clogged: watch::Sender<bool>,
    cuts: watch::Sender<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Link {
    /// A link to the server at `url`, as in `nats://127.0.0.1:4222`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn to(url: &str) -> Result<Self> {
        let server: SocketAddr = url.trim_start_matches("nats://").parse().context("the address of one server")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (clogged, state) = watch::channel(false);
        let (cuts, cut) = watch::channel(0);
        let task = AbortOnDropHandle::new(tokio::task::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (mut cut, carry) = (cut.clone(), carry(client, server, state.clone()));
                cut.mark_unchanged();
                connections.spawn(async move {
                    tokio::select! {
                        () = carry => {}
                        // The sender is dropped only at the end of the test.
                        _ = cut.changed() => {}
                    }
                });
            }
        }));
        Ok(Self { port, clogged, cuts, _task: task })
    }

    /// The address for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Holds the clients' bytes back from now on.
    pub fn clog(&self) {
        self.clogged.send_replace(true);
    }

    /// Closes all connections and drops the held bytes. New connections are clogged if the link still is.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Releases the held bytes, and holds nothing back any more.
    pub fn clear(&self) {
        self.clogged.send_replace(false);
    }
}

/// Carries bytes both ways until one side ends.
async fn carry(client: TcpStream, server: SocketAddr, clogged: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upwards = async move {
        let mut clogged = clogged;
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = from_client.read(&mut bytes).await.unwrap_or(0);
            // The sender is dropped only at the end of the test.
            if count == 0 || clogged.wait_for(|clogged| !clogged).await.is_err() {
                return;
            }
            if to_server.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = upwards => {}
        // The end of either direction ends the connection.
        _ = copy(&mut from_server, &mut to_client) => {}
    }
}
