//! What `holdfast up` keeps private, and what its commands say about wrong credentials. Also that it takes over the
//! streams of a version that had no accounts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use holdfast_tests::fleet::Fleet;
use holdfast_tests::server;
use holdfast_tests::wait::until_ok;

/// `holdfast up` in a folder of its own, with the default data folder. Killed when dropped.
struct Up {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

fn holdfast(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for variable in ["NATS_URL", "NATS_CONTEXT", "NATS_USER", "NATS_PASSWORD", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.env("HOME", folder).env("XDG_STATE_HOME", folder.join("state")).env_remove("XDG_CONFIG_HOME");
    command.current_dir(folder).args(arguments);
    command
}

impl Up {
    async fn start(folder: tempfile::TempDir) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let file = |name| fs::File::create(folder.path().join(name)).unwrap();
        let nats_server = &server::binary().await.unwrap().path;
        let child = holdfast(folder.path(), &["up", "--port", &port.to_string(), "--grace", "3s"])
            // It may be in the cache of the real home.
            .env("HOLDFAST_NATS_SERVER", nats_server)
            .stdout(file("out"))
            .stderr(file("err"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let up = Self { child, port, folder };
        until_ok("`up` to be up", Duration::from_secs(30), async || {
            if up.read("out").contains("Holdfast is up.") { Ok(()) } else { Err(up.read("err")) }
        })
        .await;
        up
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.folder.path().join(name)).unwrap().permissions().mode() & 0o777
    }

    fn run(&self, arguments: &[&str]) -> Output {
        holdfast(self.folder.path(), arguments).output().unwrap()
    }

    /// Runs a command that must fail as a wrong command line, and returns what it says.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["session", "get", "s1"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        said
    }

    fn nats_server(&self) -> u32 {
        self.read(".holdfast/nats/nats-server.pid").trim().parse().unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn what_up_writes_and_runs_shows_no_password_to_other_users() {
    let up = Up::start(tempfile::tempdir().unwrap()).await;
    for folder in [".holdfast", ".holdfast/config", ".holdfast/nats"] {
        assert_eq!(up.mode(folder), 0o700, "{folder}");
    }
    assert_eq!(up.mode(".holdfast/credentials.env"), 0o600);
    assert!(up.read(".holdfast/.gitignore").lines().any(|line| line == "*"));
    let credentials = up.read(".holdfast/credentials.env");
    let passwords: Vec<&str> = credentials.lines().map(|line| line.split_once('=').unwrap().1).collect();
    assert_eq!(passwords.len(), 6, "five users, and the routes between servers");
    for user in ["ops", "client", "coordinator", "worker", "sys"] {
        let file = format!(".holdfast/config/nats/context/{user}.json");
        assert_eq!(up.mode(&file), 0o600, "{file}");
        // As the nats CLI names them.
        for member in ["\"url\"", "\"user\"", "\"password\"", "\"inbox_prefix\"", "\"description\""] {
            assert!(up.read(&file).contains(member), "{file} has no {member}");
        }
    }
    assert!(up.run(&["session", "open", "s1"]).status.success());
    let mut shown = vec![up.read("out"), up.read("err"), up.read(".holdfast/nats/nats-server.log")];
    for pid in [up.child.id(), up.nats_server()] {
        shown.push(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap());
    }
    let context = up.run(&["context", "show"]);
    shown.push(String::from_utf8_lossy(&[context.stdout, context.stderr].concat()).into_owned());
    for password in passwords {
        assert!(password.len() > 20);
        assert!(shown.iter().all(|text| !text.contains(password)), "{shown:?}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_a_wrong_command_line_with_advice() {
    let up = Up::start(tempfile::tempdir().unwrap()).await;
    let url = format!("nats://127.0.0.1:{}", up.port);
    let url = url.as_str();
    let said = up.refused(&["--nats", url, "--user", "ops", "--password", "wrong-secret"]);
    assert!(said.contains("--creds") && !said.contains("wrong-secret"), "{said}");
    let file = |name: &str, text: &str| {
        let path = up.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let seed = file("user.nk", "SUAMK2FG4MI6UE3ACF3FK3OIQBCEIEZV7NSWFFEW63UXMRLFM2XLAXK4GY\n");
    let said = up.refused(&["--nats", url, "--nkey", &seed]);
    assert!(said.contains("the NKey of") && !said.contains("SUAMK2"), "{said}");
    for option in ["--nkey", "--creds", "--tlsca"] {
        let said = up.refused(&["--nats", url, option, "missing-file"]);
        assert!(said.contains("missing-file"), "{option}: {said}");
    }
    let said = up.refused(&["--nats", url, "--tlscert", &seed]);
    assert!(said.contains("--tlskey"), "{said}");
    // A server without TLS.
    let ca = file("ca.pem", "");
    up.refused(&["--nats", url, "--tlsca", &ca]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_a_version_without_accounts_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join(".holdfast/nats");
    let mut old = server::own(|options| options.data = data.clone()).await.unwrap();
    let mut fleet = Fleet::empty_below(&old.url(), Default::default()).await.unwrap();
    fleet.add_worker("w1", &[]).await.unwrap();
    fleet.add_coordinator().await.unwrap();
    fleet.open("s1").await;
    fleet.ask("doc.edit", "s1", serde_json::json!({"body": "from before"})).await.ok();
    fleet.stop_worker("w1").await;
    fleet.stop_coordinator().await;
    old.stop(Duration::from_secs(5)).await.unwrap();
    assert!(data.join("jetstream/$G/streams/KV_sessions").is_dir());

    let up = Up::start(folder).await;
    let output = up.run(&["doc", "get", "s1"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("from before"), "{output:?}");
}
