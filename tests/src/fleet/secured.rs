//! Fleets on servers with our accounts: each part logs in with its own role, and requests go over service imports.

use std::ops::{Deref, DerefMut};

use anyhow::Result;
use holdfast_coordinator::Config;
use holdfast_deploy::{Conf, Credentials, Role, ServerOptions};
use holdfast_protocol::subject::Root;
use holdfast_store::connect::{ConnectOptions, Password};

use super::Fleet;
use crate::server::{self, Own, OwnCluster};

/// How the parts of a fleet connect.
#[derive(Clone, Debug)]
pub enum Access {
    /// Without a login.
    Open,
    /// Each with the password of its role.
    Roles(Credentials),
}

impl Access {
    /// How a part of `role` connects.
    pub fn options(&self, url: &str, role: Role) -> ConnectOptions {
        let plain = ConnectOptions::to(url);
        let Self::Roles(credentials) = self else { return plain };
        ConnectOptions {
            user: Some(role.user().to_owned()),
            password: Some(Password(credentials.password(role).to_owned())),
            inbox_prefix: Some(role.inbox_prefix()),
            name: Some(format!("a test's {}", role.user())),
            ..plain
        }
    }
}

fn secured(conf: Conf, credentials: &Credentials) -> impl Fn(&mut ServerOptions) {
    let variables = credentials.variables();
    move |options| {
        options.conf = conf.clone();
        options.variables = variables.clone();
    }
}

/// A server with accounts for one test.
pub struct SecuredServer {
    server: Own,
    access: Access,
}

impl SecuredServer {
    /// Starts a server with the accounts of `nats.conf`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start() -> Result<Self> {
        Self::start_with(Conf::accounts("hf")).await
    }

    /// Starts a server with these settings, which read the passwords of all roles.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start_with(conf: Conf) -> Result<Self> {
        let credentials = Credentials::random();
        let server = server::own(secured(conf, &credentials)).await?;
        Ok(Self { server, access: Access::Roles(credentials) })
    }

    /// A fleet without coordinators and workers.
    ///
    /// # Errors
    /// When the server cannot be used.
    pub async fn fleet(&self) -> Result<Fleet> {
        Fleet::empty_with(&self.server.url(), Root::default(), self.access.clone()).await
    }

    /// How the roles connect.
    pub fn access(&self) -> &Access {
        &self.access
    }
}

impl Deref for SecuredServer {
    type Target = Own;

    fn deref(&self) -> &Own {
        &self.server
    }
}

impl DerefMut for SecuredServer {
    fn deref_mut(&mut self) -> &mut Own {
        &mut self.server
    }
}

/// Three servers with accounts for one test.
pub struct SecuredCluster {
    cluster: OwnCluster,
    access: Access,
}

impl SecuredCluster {
    /// Starts three servers with the accounts of `nats.conf`.
    ///
    /// # Errors
    /// When they cannot be started.
    pub async fn start() -> Result<Self> {
        let credentials = Credentials::random();
        let cluster = server::own_cluster_with(secured(Conf::accounts("hf"), &credentials)).await?;
        Ok(Self { cluster, access: Access::Roles(credentials) })
    }

    /// A fleet without coordinators and workers, whose parts know all three servers.
    ///
    /// # Errors
    /// When the servers cannot be used.
    pub async fn fleet(&self) -> Result<Fleet> {
        Fleet::empty_with(&self.cluster.url(), Root::default(), self.access.clone()).await
    }

    /// How the roles connect.
    pub fn access(&self) -> &Access {
        &self.access
    }
}

impl Deref for SecuredCluster {
    type Target = OwnCluster;

    fn deref(&self) -> &OwnCluster {
        &self.cluster
    }
}

impl DerefMut for SecuredCluster {
    fn deref_mut(&mut self) -> &mut OwnCluster {
        &mut self.cluster
    }
}

impl Fleet {
    /// How a part of `role` connects to `url`.
    pub fn options(&self, url: &str, role: Role) -> ConnectOptions {
        self.access.options(url, role)
    }

    /// The settings of a coordinator. With accounts, it trusts what nats-server tells it of who asks.
    pub(super) fn coordinator_config(&self) -> Config {
        let trust_request_info = matches!(self.access, Access::Roles(_));
        Config { root: self.root.clone(), trust_request_info, ..Config::default() }
    }

    /// The connection whose role may ask this.
    pub(super) fn asking(&self, subject: &str) -> &async_nats::Client {
        let group = subject.split('.').nth(2);
        if matches!(group, Some("admin" | "worker")) { &self.ops } else { &self.nats }
    }
}
