//! `holdfast doc`: get, edit, load, save, undo, redo.

mod editor;

use clap::{ArgGroup, Args, Subcommand};
use holdfast_client::protocol::document::Splice;
use holdfast_client::protocol::request::{Consistency, DocGet, Edit, Load, Save, Undo};

use crate::ask::{Asker, Requests};
use crate::content::{Body, Fields, fields, splice};
use crate::exit::Failure;
use crate::lock::OptionalToken;
use crate::output;
use crate::session::Of;
use crate::words::{Words, one_of};

const CONSISTENCIES: Words =
    &[("local", "What the session's agent has"), ("linearizable", "What it has while it provably owns the session")];

/// The group's requests.
#[derive(Subcommand, Debug)]
pub(crate) enum Request {
    /// Read the document
    Get {
        #[command(flatten)]
        session: Of,
        /// How current the answer must be [default: local]
        #[arg(long, value_name = "HOW", value_parser = one_of::<Consistency>(CONSISTENCIES))]
        consistency: Option<Consistency>,
        /// Print only the text, byte for byte
        #[arg(long)]
        raw: bool,
    },
    /// Change the document: a whole new text, or splices of it, or its fields, or by hand in an editor
    Edit(Box<EditArgs>),
    /// Read the file again
    Load {
        #[command(flatten)]
        session: Of,
        #[command(flatten)]
        token: OptionalToken,
        /// Discard unsaved changes
        #[arg(long)]
        discard: bool,
    },
    /// Write the file
    Save {
        #[command(flatten)]
        session: Of,
        #[command(flatten)]
        token: OptionalToken,
        /// Overwrite a file that changed on disk, and replace one that the worker may not write
        #[arg(long)]
        overwrite: bool,
    },
    /// Undo the last change
    Undo(UndoArgs),
    /// Redo an undone change
    Redo(UndoArgs),
}

impl Request {
    /// Whether it passes signals to a program, in place of being ended by them.
    pub(crate) fn forwards_signals(&self) -> bool {
        matches!(self, Self::Edit(edit) if edit.editor)
    }
}

#[derive(Args, Debug)]
#[command(group(
    ArgGroup::new("change").required(true).multiple(true).args(["body", "body_file", "splices", "fields", "editor"])
))]
pub(crate) struct EditArgs {
    #[command(flatten)]
    session: Of,
    #[command(flatten)]
    token: OptionalToken,
    /// Only if the document is at this revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<u64>,
    #[command(flatten)]
    body: Body,
    /// At character AT, remove DELETE characters and insert INSERT; each on the result of the one before
    #[arg(
        long = "splice",
        value_name = "AT:DELETE:INSERT",
        value_parser = splice,
        conflicts_with_all = ["body", "body_file"]
    )]
    splices: Option<Vec<Splice>>,
    /// JSON merge patch of the fields; null removes a field
    #[arg(long, value_name = "JSON", value_parser = fields)]
    fields: Option<Fields>,
    /// Open the text in $VISUAL or $EDITOR. The change is made only if nobody changed the document meanwhile; otherwise
    /// your text stays in a file
    #[arg(long, conflicts_with_all = ["body", "body_file", "splices", "fields", "expected_revision"])]
    editor: bool,
    /// Hold the lock under this name while the editor is open
    #[arg(
        long,
        value_name = "NAME",
        requires = "editor",
        conflicts_with_all = ["token", "body", "body_file", "splices", "fields"]
    )]
    owner: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct UndoArgs {
    #[command(flatten)]
    session: Of,
    #[command(flatten)]
    token: OptionalToken,
    /// Only if the document is at this revision
    #[arg(long, value_name = "N")]
    expected_revision: Option<u64>,
}

impl EditArgs {
    fn edit(self) -> Result<Edit, Failure> {
        Ok(Edit {
            token: self.token.token,
            expected_revision: self.expected_revision,
            body: self.body.read()?,
            splices: self.splices,
            fields: self.fields,
            ..Edit::default()
        })
    }
}

impl UndoArgs {
    fn undo(self) -> Undo {
        Undo { token: self.token.token, expected_revision: self.expected_revision, ..Undo::default() }
    }
}

impl Requests for Request {
    async fn ask(self, asker: &Asker) -> Result<(), Failure> {
        match self {
            Self::Get { session, consistency, raw } => {
                let get = DocGet { consistency, ..DocGet::default() };
                let call = asker.session(&session).document(get);
                if !raw {
                    return asker.ask(call).await;
                }
                let document = asker.signed(call).send().await?;
                output::text(&document.body).map_err(Failure::Output)
            }
            Self::Edit(edit) if edit.editor => {
                let session = asker.session(&edit.session);
                editor::edit(asker, &session, edit.token.token, edit.owner).await
            }
            Self::Edit(edit) => {
                let session = asker.session(&edit.session);
                asker.ask(session.edit(edit.edit()?)).await
            }
            Self::Load { session, token, discard } => {
                let load = Load { token: token.token, discard: discard.then_some(true), ..Load::default() };
                asker.ask(asker.session(&session).load(load)).await
            }
            Self::Save { session, token, overwrite } => {
                let save = Save { token: token.token, overwrite: overwrite.then_some(true), ..Save::default() };
                asker.ask(asker.session(&session).save(save)).await
            }
            Self::Undo(undo) => asker.ask(asker.session(&undo.session).undo(undo.undo())).await,
            Self::Redo(redo) => asker.ask(asker.session(&redo.session).redo(redo.undo())).await,
        }
    }
}
