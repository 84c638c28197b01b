//! `holdfast context`: where the commands of this folder connect, and as whom.

use async_nats::Client;
use clap::{Args, Subcommand};
use holdfast_deploy::Role;
use holdfast_store::connect::{ConnectOptions, DEFAULT_URL, server_of};
use serde_json::{Value, json};
use std::time::Duration;

use crate::connect::{Connection, Origin};
use crate::exit::Failure;
use crate::output::{self, Format};

/// How long to wait for the server's answer about the user. A user that may not ask gets none.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// Where a user asks a nats-server about itself.
const WHO_AM_I: &str = "$SYS.REQ.USER.INFO";

/// What to do with contexts.
#[derive(Args, Debug)]
pub(crate) struct Context {
    #[command(subcommand)]
    request: Request,
}

#[derive(Subcommand, Debug)]
enum Request {
    /// Show where commands connect, as whom, and which file or option says so; exit status 5 if nobody answers there
    Show,
}

impl Context {
    /// Shows the context.
    pub(crate) async fn run(self, connection: &Connection, format: Format) -> Result<(), Failure> {
        let Request::Show = self.request;
        let (options, origin) = connection.settings(Role::Ops)?;
        let mut shown = said(connection, &options, &origin);
        let connected =
            tokio::time::timeout(connection.timeout, connection.connect("holdfast context", Role::Ops)).await;
        let failure = match connected {
            Ok(Ok(nats)) => {
                shown["server"] = json!(format!("{}, nats-server {}", server_of(&nats), nats.server_info().version));
                let (account, user) = who(&nats).await;
                shown["account"] = account;
                if !user.is_null() {
                    shown["user"] = user;
                }
                None
            }
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some(Failure::Connect(anyhow::anyhow!("no answer within {:?}", connection.timeout))),
        };
        show(&shown, format).map_err(Failure::Output)?;
        failure.map_or(Ok(()), Err)
    }
}

fn said(connection: &Connection, options: &ConnectOptions, origin: &Origin) -> Value {
    let from = match origin {
        Origin::Given => "options and environment variables".to_owned(),
        Origin::Context(path) => path.display().to_string(),
        Origin::Up(path) => format!("{}, which `holdfast up` wrote", path.display()),
        Origin::Default => "nothing says otherwise, so the default address without a login".to_owned(),
    };
    json!({
        "url": options.url.as_deref().unwrap_or(DEFAULT_URL),
        "user": options.user,
        "credentials": options.who(),
        "inbox_prefix": options.inbox_prefix.as_deref().unwrap_or("_INBOX"),
        "from": from,
        "root": connection.root.as_str(),
        "namespace": connection.namespace.as_str(),
        "account": null,
        "server": null,
    })
}

/// The account and the user, as the server knows them.
async fn who(nats: &Client) -> (Value, Value) {
    let request = async_nats::Request::new().payload("".into()).timeout(Some(ASK_TIMEOUT));
    let Ok(reply) = nats.send_request(WHO_AM_I, request).await else { return (Value::Null, Value::Null) };
    let told: Value = serde_json::from_slice(&reply.payload).unwrap_or_default();
    (told["data"]["account"].clone(), told["data"]["user"].clone())
}

fn show(shown: &Value, format: Format) -> std::io::Result<()> {
    if format == Format::Json {
        return output::line(shown.to_string().as_bytes());
    }
    let text = |name: &str| shown[name].as_str().unwrap_or("not known").to_owned();
    let lines = [
        ("address", text("url")),
        ("as", text("credentials")),
        ("account", text("account")),
        ("server", text("server")),
        ("replies on", format!("{}.>", text("inbox_prefix"))),
        ("said by", text("from")),
        ("root", text("root")),
        ("namespace", text("namespace")),
    ];
    output::text(&lines.map(|(name, value)| format!("{name:<11} {}\n", output::plain(&value))).concat())
}
