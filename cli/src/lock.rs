//! `holdfast lock`: acquire, validate, renew, release, run; and the option for a token.

mod hold;
pub(crate) mod keep;
mod run;

use clap::{Args, Subcommand};
use holdfast_client::{Acquire, Token};

use crate::ask::{Asker, Requests};
use crate::duration::milliseconds;
use crate::exit::Failure;
use crate::session::Of;
pub(crate) use hold::{Holding, Release, release};

/// The group's requests.
#[derive(Subcommand, Debug)]
pub(crate) enum Request {
    /// Take the lock; the reply has the token that proves it
    Acquire(AcquireArgs),
    /// Ask whether a token is the current one
    Validate(ShowToken),
    /// Restart the lock's lease
    Renew(ShowToken),
    /// Release the lock
    Release(ShowToken),
    /// Run a command while holding the lock
    Run(Box<run::Run>),
}

impl Request {
    /// Whether it passes signals to a program, in place of being ended by them.
    pub(crate) fn forwards_signals(&self) -> bool {
        matches!(self, Self::Run(_))
    }
}

#[derive(Args, Debug)]
pub(crate) struct AcquireArgs {
    #[command(flatten)]
    session: Of,
    /// The holder's name; it proves nothing
    #[arg(long, value_name = "NAME")]
    owner: String,
    /// The lock expires when it is not renewed for this long [default: it is held until released]
    #[arg(long = "ttl", alias = "ttl-ms", value_name = "TIME", value_parser = milliseconds)]
    ttl_ms: Option<u64>,
    /// Wait up to this long while another client holds it
    #[arg(long = "wait", alias = "wait-ms", value_name = "TIME", value_parser = milliseconds)]
    wait_ms: Option<u64>,
    /// The current token, to get the same grant again
    #[arg(long, value_name = "TOKEN")]
    expected_token: Option<Token>,
    /// Ask for a new token in place of the expected one
    #[arg(long, requires = "expected_token")]
    rotate: bool,
    /// Print only the token, as for TOKEN=$(holdfast lock acquire …)
    #[arg(long)]
    token_only: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShowToken {
    #[command(flatten)]
    session: Of,
    /// The lock's token
    #[arg(long, value_name = "TOKEN", env = "HOLDFAST_TOKEN", hide_env_values = true)]
    token: Token,
}

/// A token that a change may need.
#[derive(Args, Debug)]
pub(crate) struct OptionalToken {
    /// The lock's token, while it is held
    #[arg(long, value_name = "TOKEN", env = "HOLDFAST_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<Token>,
}

impl AcquireArgs {
    fn acquire(self) -> Acquire {
        Acquire {
            owner: self.owner,
            expected_token: self.expected_token,
            rotate: self.rotate.then_some(true),
            ttl_ms: self.ttl_ms,
            wait_ms: self.wait_ms,
            ..Acquire::default()
        }
    }
}

impl Requests for Request {
    async fn ask(self, asker: &Asker) -> Result<(), Failure> {
        match self {
            Self::Acquire(args) => {
                let (session, token_only) = (asker.session(&args.session), args.token_only);
                let call = session.acquire(args.acquire());
                if token_only { asker.ask_token(call, |grant| grant.lock_token).await } else { asker.ask(call).await }
            }
            Self::Validate(shown) => asker.ask(asker.session(&shown.session).validate(&shown.token)).await,
            Self::Renew(shown) => asker.ask(asker.session(&shown.session).renew(&shown.token)).await,
            Self::Release(shown) => asker.ask(asker.session(&shown.session).release(&shown.token)).await,
            Self::Run(run) => run.run(asker).await,
        }
    }
}
