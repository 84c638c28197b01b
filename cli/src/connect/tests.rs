//! Where to connect and as whom: which setting wins.

use super::*;
use holdfast_deploy::Credentials;

fn none() -> Connection {
    Connection {
        nats: None,
        creds: None,
        nkey: None,
        tlsca: None,
        tlscert: None,
        tlskey: None,
        user: None,
        password: None,
        inbox_prefix: None,
        context: None,
        root: Root::default(),
        namespace: Namespace::parse("default").unwrap(),
        timeout: Duration::from_secs(1),
    }
}

#[test]
fn durations_are_read_as_people_write_them() {
    assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
    assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
    assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
    for text in ["0", "0s", "-5s", "soon", ""] {
        assert!(duration(text).is_err(), "{text:?}");
    }
}

#[test]
fn what_up_wrote_is_used_only_where_nobody_else_says_who_connects() {
    let data = tempfile::tempdir().unwrap();
    let credentials = Credentials::random();
    found::write_contexts(data.path(), "nats://127.0.0.1:14222", Some(&credentials)).unwrap();
    let found = Found::in_data(data.path()).unwrap();
    let settings = |connection: Connection, role| connection.settings_with(role, Some(&found)).unwrap();

    let (options, origin) = settings(none(), Role::Worker);
    assert_eq!((options.user.as_deref(), options.inbox_prefix.as_deref()), (Some("worker"), Some("_INBOX_worker")));
    assert_eq!((options.url.as_deref(), origin), (Some("nats://127.0.0.1:14222"), Origin::Up(found.of(Role::Worker))));

    let same = Connection { nats: Some("nats://localhost:14222".to_owned()), ..none() };
    let (options, _) = settings(same, Role::Ops);
    assert_eq!(options.password, Some(Password(credentials.password(Role::Ops).to_owned())));

    let elsewhere = Connection { nats: Some("nats://db:4222".to_owned()), ..none() };
    let (options, origin) = settings(elsewhere, Role::Ops);
    assert_eq!((options.user, origin), (None, Origin::Given));

    let somebody = Connection { nats: Some("nats://ann:x@127.0.0.1:14222".to_owned()), ..none() };
    let (options, origin) = settings(somebody, Role::Ops);
    assert_eq!((options.user.as_deref(), origin), (Some("ann"), Origin::Given));

    let client = Connection { context: Some("client".to_owned()), ..none() };
    let (options, _) = settings(client, Role::Ops);
    assert_eq!(options.user.as_deref(), Some("client"), "the context of a role is found by its name");
}

#[test]
fn a_context_of_the_command_line_beats_the_environment() {
    let from_environment = || Connection {
        nats: Some("nats://environment:4222".to_owned()),
        creds: Some(PathBuf::from("environment.creds")),
        ..none()
    };
    let read = |line: &[&str]| {
        let command = Connection::augment_args(clap::Command::new("holdfast"));
        let mut connection = from_environment();
        connection.prefer_command_line(&command.get_matches_from(line));
        (connection.nats, connection.creds)
    };
    assert_eq!(read(&["holdfast", "--context", "x"]), (None, None));
    assert_eq!(read(&["holdfast"]).0.as_deref(), Some("nats://environment:4222"));
    // The address is the one of the environment here, and stays because the command line has that option too.
    let (nats, creds) = read(&["holdfast", "--context", "x", "--nats", "nats://given"]);
    assert_eq!((nats.is_some(), creds), (true, None));
}

#[test]
fn a_missing_context_is_a_wrong_command_line() {
    let missing = Connection { context: Some("/nowhere/x.json".to_owned()), ..none() };
    let failure = missing.settings_with(Role::Ops, None).unwrap_err();
    assert!(matches!(failure, Failure::Usage(ref text) if text.contains("/nowhere/x.json")), "{failure:?}");
}
