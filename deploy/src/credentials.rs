//! The passwords of the roles, which `nats.conf` reads from the environment.
//!
//! Invariant: the file of the passwords is never readable by other users, not even for a moment. A password is never in
//! a command line or in a log.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use uuid::Uuid;

/// A NATS user of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Coordinators.
    Coordinator,
    /// Workers.
    Worker,
    /// Operators.
    Ops,
    /// Programs.
    Client,
    /// The server's own account: monitoring.
    Sys,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Coordinator, Self::Worker, Self::Ops, Self::Client, Self::Sys];

    /// The user's name.
    pub fn user(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Ops => "ops",
            Self::Client => "client",
            Self::Sys => "sys",
        }
    }

    /// The environment variable with the password, as `nats.conf` reads it.
    pub fn variable(self) -> String {
        format!("HOLDFAST_{}_PASSWORD", self.user().to_uppercase())
    }

    /// The prefix of the reply subjects that only this role may subscribe to.
    pub fn inbox_prefix(self) -> String {
        format!("_INBOX_{}", self.user())
    }
}

/// The environment variable with the password by which the servers of a cluster know each other.
pub const ROUTE_VARIABLE: &str = "HOLDFAST_ROUTE_PASSWORD";

/// The password of each role, and the one of the servers of a cluster.
#[derive(Clone)]
pub struct Credentials {
    of_roles: [String; Role::ALL.len()],
    of_routes: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// New random passwords of 122 bits. Each begins with a letter, because nats-server reads a value that looks like a
    /// number as a number.
    pub fn random() -> Self {
        Self { of_roles: Role::ALL.map(|_| random_password()), of_routes: random_password() }
    }

    /// The passwords of an environment file, made if it does not exist. Each line is `VARIABLE=password`.
    ///
    /// # Errors
    /// When the file cannot be read or made, or a password is missing in it.
    pub fn load_or_create(file: &Path) -> io::Result<Self> {
        match fs::read_to_string(file) {
            Ok(text) => {
                fs::set_permissions(file, Permissions::from_mode(0o600))?;
                let (read, complete) = Self::parse(&text)?;
                if !complete {
                    write_private(
                        file,
                        format!("{}\n{}\n", text.trim_end(), read.route_line()).as_bytes(),
                        Existing::Replace,
                    )?;
                }
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Self::random();
                match write_private(file, made.to_env_file().as_bytes(), Existing::Keep) {
                    // Another process made it a moment ago.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load_or_create(file),
                    written => written.map(|()| made),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The passwords, and whether the file is complete: the password of the servers came later, and gets added.
    fn parse(text: &str) -> io::Result<(Self, bool)> {
        let value = |variable: &str| {
            let prefix = format!("{variable}=");
            let line = text.lines().find_map(|line| line.trim().strip_prefix(&prefix));
            line.map(str::to_owned).filter(|value| !value.is_empty())
        };
        let missing = |name: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{name} is missing"));
        let mut of_roles = Vec::with_capacity(Role::ALL.len());
        for variable in Role::ALL.map(Role::variable) {
            of_roles.push(value(&variable).ok_or_else(|| missing(&variable))?);
        }
        let of_roles = of_roles.try_into().expect("there is one password for each role");
        let of_routes = value(ROUTE_VARIABLE);
        let complete = of_routes.is_some();
        Ok((Self { of_roles, of_routes: of_routes.unwrap_or_else(random_password) }, complete))
    }

    fn to_env_file(&self) -> String {
        self.variables().iter().map(|(name, password)| format!("{name}={password}\n")).collect()
    }

    fn route_line(&self) -> String {
        format!("{ROUTE_VARIABLE}={}", self.of_routes)
    }

    /// The password of a role.
    pub fn password(&self, role: Role) -> &str {
        &self.of_roles[role as usize]
    }

    /// The environment variables for nats-server.
    pub fn variables(&self) -> Vec<(String, String)> {
        let of_roles = Role::ALL.iter().map(|role| (role.variable(), self.password(*role).to_owned()));
        of_roles.chain([(ROUTE_VARIABLE.to_owned(), self.of_routes.clone())]).collect()
    }
}

fn random_password() -> String {
    format!("p{}", Uuid::new_v4().simple())
}

/// What to do if the file exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave it, and fail.
    Keep,
    /// Replace it in one step.
    Replace,
}

/// Writes a file that only its owner may read (mode 0600), in one step.
///
/// # Errors
/// When the folder cannot be written to, or the file exists and is kept.
pub fn write_private(file: &Path, bytes: &[u8], existing: Existing) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // A temporary file has mode 0600 from its beginning.
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(bytes)?;
    let persisted: Result<File, _> = match existing {
        Existing::Keep => temporary.persist_noclobber(file),
        Existing::Replace => temporary.persist(file),
    };
    persisted.map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_made_once_and_read_by_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new").join("credentials.env");
        let made = Credentials::load_or_create(&file).unwrap();
        let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let again = Credentials::load_or_create(&file).unwrap();
        assert_eq!((again.variables(), mode()), (made.variables(), 0o600), "a file that others could read is closed");
        let distinct: std::collections::BTreeSet<_> = made.variables().into_iter().map(|(_, value)| value).collect();
        assert_eq!(distinct.len(), Role::ALL.len() + 1);
        assert_eq!(format!("{made:?}"), "Credentials(…)");
    }

    #[test]
    fn the_password_of_the_servers_is_added_to_an_older_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials.env");
        let made = Credentials::load_or_create(&file).unwrap();
        let older = fs::read_to_string(&file).unwrap().replace(ROUTE_VARIABLE, "# was");
        fs::write(&file, older).unwrap();
        let (one, two) = (Credentials::load_or_create(&file).unwrap(), Credentials::load_or_create(&file).unwrap());
        assert_eq!(one.variables(), two.variables(), "it is added once");
        assert_eq!(Role::ALL.map(|role| one.password(role)), Role::ALL.map(|role| made.password(role)));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_missing_password_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials.env");
        fs::write(&file, "HOLDFAST_COORDINATOR_PASSWORD=x\n").unwrap();
        let error = Credentials::load_or_create(&file).unwrap_err().to_string();
        assert_eq!(error, "HOLDFAST_WORKER_PASSWORD is missing");
    }
}
