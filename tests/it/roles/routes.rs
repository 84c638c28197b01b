//! A cluster that only servers with the password of the routes can join.

use std::time::Duration;

use holdfast_deploy::{Conf, Credentials, Role, Server, ServerOptions, free_port};
use holdfast_store::connect::{ConnectOptions, Password, connect};
use holdfast_tests::server::binary;
use holdfast_tests::wait::{until, until_ok};
use serde_json::{Value, json};

use super::parts::{Parts, ask};

const SOON: Duration = Duration::from_secs(60);

/// A server of the cluster. `password` is what it gives to the others.
async fn member(
    folder: &std::path::Path,
    number: usize,
    ports: &[u16],
    password: &str,
    credentials: &Credentials,
) -> Server {
    let routes: Vec<String> =
        ports.iter().map(|port| format!("nats-route://route:{password}@127.0.0.1:{port}")).collect();
    let listen = format!("port: {}", ports.get(number - 1).copied().unwrap_or_else(|| free_port().unwrap()));
    let name = format!("n{number}");
    let mut options = ServerOptions::new(&binary().await.unwrap().path, folder.join(&name), &name);
    options.conf = Conf::cluster("hf").changed(|text| text.replace("port: 6222", &listen));
    options.variables = credentials.variables();
    options.variables.push(("HOLDFAST_SERVER_NAME".to_owned(), name.clone()));
    options.variables.push(("HOLDFAST_ROUTE_PASSWORD".to_owned(), password.to_owned()));
    options.variables.push(("HOLDFAST_ROUTES".to_owned(), format!("[{}]", routes.join(", "))));
    Server::start(options).await.unwrap()
}

fn login(role: Role, servers: &[Server], credentials: &Credentials) -> ConnectOptions {
    ConnectOptions {
        user: Some(role.user().to_owned()),
        password: Some(Password(credentials.password(role).to_owned())),
        inbox_prefix: Some(role.inbox_prefix()),
        ..ConnectOptions::to(servers.iter().map(Server::url).collect::<Vec<_>>().join(","))
    }
}

/// The names of the servers that the first one has routes to.
async fn routes(sys: &async_nats::Client) -> Vec<String> {
    let told = ask(sys, "$SYS.REQ.SERVER.PING.ROUTEZ", json!({"server_name": "n1"})).await;
    let routes = told["data"]["routes"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> =
        routes.iter().filter_map(|route| route["remote_name"].as_str().map(str::to_owned)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_password_of_the_routes_cannot_join() {
    let folder = tempfile::tempdir().unwrap();
    let credentials = Credentials::random();
    let ports = [free_port().unwrap(), free_port().unwrap(), free_port().unwrap()];
    let mut servers = Vec::new();
    for number in 1..=3 {
        servers.push(member(folder.path(), number, &ports, "route-secret", &credentials).await);
    }
    let sys = connect(&login(Role::Sys, &servers[..1], &credentials)).await.unwrap();
    until_ok("the servers to find each other", SOON, async || {
        let names = routes(&sys).await;
        if names == ["n2", "n3"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    let stranger = member(folder.path(), 4, &ports, "guess", &credentials).await;
    let log = |server: &Server| std::fs::read_to_string(server.log()).unwrap();
    until("the stranger to be refused by every server", SOON, async || {
        servers.iter().all(|server| log(server).contains("authentication error")).then_some(())
    })
    .await;
    assert_eq!(routes(&sys).await, ["n2", "n3"]);
    assert!(!log(&stranger).contains("Route connection created") || log(&stranger).contains("Authorization Violation"));

    // The cluster works, with three replicas and the credentials of the roles.
    let all = |role| login(role, &servers, &credentials);
    let coordinator = connect(&all(Role::Coordinator)).await.unwrap();
    let worker = connect(&all(Role::Worker)).await.unwrap();
    let _parts = Parts::start(coordinator, worker).await.unwrap();
    let client = connect(&all(Role::Client)).await.unwrap();
    until_ok("a session", SOON, async || {
        let opened: Value = super::parts::try_ask(&client, "hf.default.session.open", json!({"id": "s1"}))
            .await
            .map_err(|e| e.to_string())?;
        if opened["error"].is_null() { Ok(()) } else { Err(opened.to_string()) }
    })
    .await;
    for server in &servers {
        let log = log(server);
        let violations: Vec<&str> = log.lines().filter(|line| line.contains("Violation")).collect();
        assert!(violations.is_empty(), "{violations:?}");
    }
}
