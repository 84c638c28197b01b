//! Other ways to log in than a password: nkeys, JWTs, and certificates. The settings are the examples of
//! `docs/security.md`.

use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use holdfast_deploy::{Conf, Role, ServerOptions};
use holdfast_store::connect::{ConnectError, ConnectOptions, Password, connect};
use holdfast_tests::server::{self, Own};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose};
use serde_json::{Value, json};

use super::document::{example, patched};
use super::installation::{Form, Installation};
use super::parts::{Parts, ask};
use super::rights::Rights;

/// Opens a session and takes its lock, and checks that an operator's request does not get through.
async fn uses(client: &async_nats::Client) {
    ask(client, "hf.default.session.open", json!({"id": "s1"})).await;
    let grant = ask(client, "hf.default.lock.acquire.s1", json!({"owner": "a"})).await;
    assert!(grant["lock_token"].is_string(), "{grant}");
    let takeover = json!({"owner": "b", "reason": "test"}).to_string();
    let wait = Some(std::time::Duration::from_millis(300));
    let request = async_nats::Request::new().payload(takeover.into()).timeout(wait);
    assert!(client.send_request("hf.default.admin.takeover.s1", request).await.is_err());
}

/// The error of a connection that must be refused.
async fn refused(options: ConnectOptions) -> ConnectError {
    connect(&options).await.err().unwrap_or_else(|| panic!("{options:?} is connected"))
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nkey_in_place_of_a_password() {
    let (key, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let public = key.public_key();
    let conf = Conf::accounts("hf").changed(|text| match text.contains("\n    APP: {") {
        true => patched(text, example("nkeys")).replace("$HOLDFAST_CLIENT_NKEY", &public),
        false => text.to_owned(),
    });
    let installation = Installation::start_with(Form::Accounts, conf).await;
    let _parts = installation.parts().await;
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, key: &KeyPair| ConnectOptions {
        nkey: Some(write(folder.path(), name, &format!("{}\n", key.seed().unwrap()))),
        inbox_prefix: Some(Role::Client.inbox_prefix()),
        ..ConnectOptions::to(installation.server.url())
    };
    uses(&connect(&of("client.nk", &key)).await.unwrap()).await;
    let error = refused(of("other.nk", &stranger)).await;
    assert!(matches!(error, ConnectError::Denied { .. }) && error.to_string().contains("the NKey of"), "{error}");
    let mut broken = of("client.nk", &key);
    broken.nkey = Some(write(folder.path(), "broken.nk", "SUAnothing"));
    assert!(!refused(broken).await.may_pass(), "waiting does not help");
}

/// A JWT as nats-server reads it: ADR-14 and the library jwt of nats.io.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, nats: &Value) -> String {
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let header = part(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = part(json!({"jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
                             "sub": subject, "nats": nats}));
    let signed = format!("{header}.{claims}");
    let signature = BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// The keys and JWTs of an installation.
struct Operator {
    operator: KeyPair,
    sys: KeyPair,
    holdfast: KeyPair,
    app: KeyPair,
}

impl Operator {
    fn new() -> Self {
        let account = KeyPair::new_account;
        Self { operator: KeyPair::new_operator(), sys: account(), holdfast: account(), app: account() }
    }

    fn account(&self, key: &KeyPair, name: &str, claims: &Value) -> String {
        jwt(&self.operator, &key.public_key(), name, claims)
    }

    fn conf(&self) -> String {
        let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                            "conn": -1, "leaf": -1});
        let of_system = json!({"type": "account", "version": 2, "limits": limits});
        let read = |name: &str| -> Value {
            let text = example(name).replace("HOLDFAST_ACCOUNT", &self.holdfast.public_key());
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let operator =
            jwt(&self.operator, &self.operator.public_key(), "op", &json!({"type": "operator", "version": 2}));
        let words = [
            ("OPERATOR_JWT", operator),
            ("SYS_JWT", self.account(&self.sys, "SYS", &of_system)),
            ("HOLDFAST_JWT", self.account(&self.holdfast, "HOLDFAST", &read("jwt account HOLDFAST"))),
            ("APP_JWT", self.account(&self.app, "APP", &read("jwt account APP"))),
            ("SYS_ACCOUNT", self.sys.public_key()),
            ("HOLDFAST_ACCOUNT", self.holdfast.public_key()),
            ("APP_ACCOUNT", self.app.public_key()),
        ];
        words.iter().fold(example("jwt server").to_owned(), |text, (word, value)| text.replace(word, value))
    }

    /// A credentials file.
    fn credentials(&self, folder: &Path, account: &KeyPair, role: Role, rights: &Rights) -> PathBuf {
        let user = KeyPair::new_user();
        let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
                            "pub": {"allow": rights.publish, "deny": rights.publish_denied},
                            "sub": {"allow": rights.subscribe}});
        let jwt = jwt(account, &user.public_key(), role.user(), &claims);
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n\
             ------END USER NKEY SEED------\n",
            user.seed().unwrap()
        );
        write(folder, &format!("{}-{}.creds", role.user(), &account.public_key()[..8]), &text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jwts_in_place_of_the_users_of_a_file() {
    let operator = Operator::new();
    let text = operator.conf();
    let server = server::own(|options| {
        options.conf = Conf::accounts("hf").changed(|old| match old.contains("\naccounts: {") {
            // The example is a file beside `server.conf`.
            true => text.replace("include \"server.conf\"", "include \"deploy/nats/server.conf\""),
            false => old.to_owned(),
        });
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let of = |account: &KeyPair, role: Role| ConnectOptions {
        creds: Some(operator.credentials(folder.path(), account, role, &Rights::of(role))),
        inbox_prefix: Some(role.inbox_prefix()),
        ..ConnectOptions::to(server.url())
    };
    let coordinator = connect(&of(&operator.holdfast, Role::Coordinator)).await.unwrap();
    let worker = connect(&of(&operator.holdfast, Role::Worker)).await.unwrap();
    let _parts = Parts::start(coordinator, worker).await.unwrap();
    uses(&connect(&of(&operator.app, Role::Client)).await.unwrap()).await;
    let error = refused(of(&KeyPair::new_account(), Role::Client)).await;
    assert!(matches!(error, ConnectError::Denied { .. }) && error.to_string().contains(".creds"), "{error}");
    assert!(!std::fs::read_to_string(server.log()).unwrap().contains("Violation - User \"coordinator"));
}

/// An authority and the files of its certificates.
struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "an authority of the test");
        let key = rcgen::KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "ca.pem", &params.self_signed(&key).unwrap().pem());
        Self { issuer: Issuer::new(params, key), folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `NAME.pem` and `NAME.key`.
    fn issue(&self, name: &str, addresses: &[&str]) {
        let mut params = CertificateParams::new(addresses.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        write(self.folder.path(), &format!("{name}.pem"), &params.signed_by(&key, &self.issuer).unwrap().pem());
        write(self.folder.path(), &format!("{name}.key"), &key.serialize_pem());
    }

    /// A server with an example's changes to nats.conf, and with the files of this authority.
    async fn server(&self, difference: &str, variables: Vec<(String, String)>) -> Own {
        self.issue("server", &["127.0.0.1", "localhost"]);
        let folder = self.folder.path().to_str().unwrap();
        let conf = Conf::accounts("hf").changed(|text| match text.contains("\naccounts: {") {
            true => patched(text, difference).replace("/etc/holdfast", folder),
            false => text.to_owned(),
        });
        let set = |options: &mut ServerOptions| {
            options.conf = conf;
            options.variables = variables;
        };
        server::own(set).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted_and_the_server_shows_a_certificate() {
    let authority = Authority::new();
    let credentials = holdfast_deploy::Credentials::random();
    let server = authority.server(example("tls"), credentials.variables()).await;
    let of = |role: Role| ConnectOptions {
        user: Some(role.user().to_owned()),
        password: Some(Password(credentials.password(role).to_owned())),
        tls_ca: Some(authority.file("ca.pem")),
        inbox_prefix: Some(role.inbox_prefix()),
        ..ConnectOptions::to(server.url())
    };
    let coordinator = connect(&of(Role::Coordinator)).await.unwrap();
    let _parts = Parts::start(coordinator, connect(&of(Role::Worker)).await.unwrap()).await.unwrap();
    uses(&connect(&of(Role::Client)).await.unwrap()).await;
    // Without the authority the server's certificate is not trusted, and so with another one.
    for tls_ca in [None, Some(Authority::new().file("ca.pem"))] {
        let error = refused(ConnectOptions { tls_ca, ..of(Role::Client) }).await;
        assert!(!error.may_pass(), "waiting does not help: {error}");
        assert!(error.to_string().contains("--tlsca"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_place_of_a_password() {
    let authority = Authority::new();
    let server = authority.server(example("certificates"), Vec::new()).await;
    let of = |authority: &Authority, role: Role| {
        authority.issue(role.user(), &[]);
        ConnectOptions {
            tls_cert: Some(authority.file(&format!("{}.pem", role.user()))),
            tls_key: Some(authority.file(&format!("{}.key", role.user()))),
            inbox_prefix: Some(role.inbox_prefix()),
            ..ConnectOptions::to(server.url())
        }
    };
    let known = |role: Role| ConnectOptions { tls_ca: Some(authority.file("ca.pem")), ..of(&authority, role) };
    let coordinator = connect(&known(Role::Coordinator)).await.unwrap();
    let _parts = Parts::start(coordinator, connect(&known(Role::Worker)).await.unwrap()).await.unwrap();
    uses(&connect(&known(Role::Client)).await.unwrap()).await;
    // A certificate of another authority, none at all, and one whose name is no user.
    let stranger = Authority::new();
    let foreign = ConnectOptions { tls_ca: Some(authority.file("ca.pem")), ..of(&stranger, Role::Client) };
    let none = ConnectOptions { tls_cert: None, tls_key: None, ..known(Role::Client) };
    authority.issue("nobody", &[]);
    let nobody = ConnectOptions {
        tls_cert: Some(authority.file("nobody.pem")),
        tls_key: Some(authority.file("nobody.key")),
        ..known(Role::Client)
    };
    for options in [foreign, none, nobody] {
        let error = refused(options).await;
        assert!(!error.may_pass(), "waiting does not help: {error}");
    }
}
