//! A nats-server with accounts, coordinators and workers as processes, and a folder in which commands find their
//! credentials as they find those of `holdfast up`.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use holdfast_deploy::{Conf, Credentials, Role};
use holdfast_tests::server::{self, Own};
use holdfast_tests::wait::until_ok;
use serde_json::{Value, json};

pub(crate) const SOON: Duration = Duration::from_secs(60);
/// The user of the account HOLDFAST who may do everything. Only tests have it.
const ROOT: (&str, &str) = ("root", "root-of-the-test");

/// An installation. All of it ends when it is dropped.
pub(crate) struct Installation {
    parts: Vec<(String, Child)>,
    pub(crate) server: Own,
    folder: tempfile::TempDir,
}

impl Installation {
    /// A server with our `nats.conf`, changed by `change`, and no parts.
    pub(crate) async fn empty(change: impl Fn(&str) -> String) -> Self {
        let credentials = Credentials::random();
        let (user, password) = ROOT;
        let coordinator = "{ user: coordinator, password: $";
        let add = format!("{{ user: {user}, password: {password} }}\n            {coordinator}");
        let server = server::own(|options| {
            options.conf = Conf::accounts("hf").changed(|text| change(&text.replace(coordinator, &add)));
            options.variables = credentials.variables();
        });
        let server = server.await.unwrap();
        let folder = folder(&server.url(), Some(&credentials));
        Self { parts: Vec::new(), server, folder }
    }

    /// The same with one coordinator and the worker `w1`, and nothing wrong.
    pub(crate) async fn start() -> Self {
        let mut all = Self::empty(str::to_owned).await;
        all.begin("coordinator", &["coordinator", "--trust-request-info"]);
        all.begin("w1", &["worker", "--name", "w1"]);
        all.settles(0).await;
        all
    }

    /// Starts a part under a name of the test's own.
    pub(crate) fn begin(&mut self, name: &str, arguments: &[&str]) {
        let child = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.parts.push((name.to_owned(), child));
    }

    /// Kills a part.
    pub(crate) fn kill(&mut self, name: &str) {
        let place = self.parts.iter().position(|(part, _)| part == name).unwrap();
        let (_, mut child) = self.parts.remove(place);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal to a part.
    pub(crate) fn signal(&self, name: &str, signal: &str) {
        let (_, child) = self.parts.iter().find(|(part, _)| part == name).unwrap();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    }

    /// A command in the installation's folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        command(self.folder.path(), arguments)
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        json_of(&self.run(&[arguments, &["--json"]].concat()), 0)
    }

    /// Waits until `holdfast status` ends with `status`, and returns what it said.
    pub(crate) async fn settles(&self, status: i32) -> Value {
        until_ok(&format!("status {status}"), SOON, async || {
            let output = self.run(&["status", "--json"]);
            let said = || format!("{:?} {}", output.status, String::from_utf8_lossy(&output.stdout));
            if output.status.code() == Some(status) { Ok(json_of(&output, status)) } else { Err(said()) }
        })
        .await
    }

    /// A connection that may do everything in the account that has the streams.
    pub(crate) async fn root(&self) -> async_nats::Client {
        let (user, password) = ROOT;
        let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
        options.connect(self.server.url()).await.unwrap()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        for (_, child) in &mut self.parts {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A folder with the contexts that `holdfast up` would write there.
pub(crate) fn folder(url: &str, credentials: Option<&Credentials>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let contexts = folder.path().join(".holdfast/config/nats/context");
    std::fs::create_dir_all(&contexts).unwrap();
    for role in Role::ALL {
        let mut context = json!({"url": url});
        if let Some(credentials) = credentials {
            context["user"] = json!(role.user());
            context["password"] = json!(credentials.password(role));
            context["inbox_prefix"] = json!(role.inbox_prefix());
        }
        std::fs::write(contexts.join(format!("{}.json", role.user())), context.to_string()).unwrap();
    }
    folder
}

/// `holdfast` in a folder, without what the environment of the test says.
pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for variable in ["NATS_URL", "NATS_CONTEXT", "NATS_CREDS", "NATS_USER", "NATS_PASSWORD", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.env("HOME", folder).env("USER", "oncall").current_dir(folder).stdin(Stdio::null()).args(arguments);
    command
}

/// The JSON of a command that must end with `status`.
pub(crate) fn json_of(output: &Output, status: i32) -> Value {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{out}{error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {out}{error}"))
}
