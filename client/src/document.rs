//! `doc.*`: get, edit, load, save, undo, redo.

use holdfast_protocol::document::Splice;
use holdfast_protocol::reply::{Document, Edited, Saved};
use holdfast_protocol::request::Consistency;
use holdfast_protocol::subject::Verb;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::client::SessionClient;
use crate::lock::Token;
use crate::request::{Ask, Call};

/// `doc.get`: reads the document.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Get {
    /// How current the answer must be.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "consistency_word")]
    pub consistency: Option<Consistency>,
}

fn consistency_word<S: Serializer>(consistency: &Option<Consistency>, serializer: S) -> Result<S::Ok, S::Error> {
    let word = consistency.map(|consistency| match consistency {
        Consistency::Local => "local",
        Consistency::Linearizable => "linearizable",
    });
    word.serialize(serializer)
}

impl Get {
    /// What the owner's agent has while it provably is the owner: one round trip to storage more.
    pub fn linearizable() -> Self {
        Self { consistency: Some(Consistency::Linearizable) }
    }
}

impl Ask for Get {
    const VERB: Verb = Verb::DocGet;
    type Reply = Document;
}

/// `doc.edit`: changes the document.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Edit {
    /// The lock's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The revision that the change is meant for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_revision: Option<u64>,
    /// A whole new text; excludes `splices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Changes of the text, each on the result of the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splices: Option<Vec<Splice>>,
    /// JSON merge patch (RFC 7396) of the fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Map<String, Value>>,
}

impl Edit {
    /// A whole new text.
    pub fn body(body: impl Into<String>) -> Self {
        Self { body: Some(body.into()), ..Self::default() }
    }

    /// Changes of the text, each on the result of the one before.
    pub fn splices(splices: Vec<Splice>) -> Self {
        Self { splices: Some(splices), ..Self::default() }
    }

    /// A JSON merge patch of the fields alone.
    pub fn fields(patch: Map<String, Value>) -> Self {
        Self { fields: Some(patch), ..Self::default() }
    }

    /// Also patches the fields, in the same revision.
    #[must_use]
    pub fn and_fields(mut self, patch: Map<String, Value>) -> Self {
        self.fields = Some(patch);
        self
    }

    /// Shows the token of the held lock.
    #[must_use]
    pub fn token(mut self, token: &Token) -> Self {
        self.token = Some(token.clone());
        self
    }

    /// Only if the document still is at this revision.
    #[must_use]
    pub fn expecting(mut self, revision: u64) -> Self {
        self.expected_revision = Some(revision);
        self
    }
}

impl Ask for Edit {
    const VERB: Verb = Verb::DocEdit;
    type Reply = Edited;
}

/// `doc.load`: reads the file again.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Load {
    /// The lock's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Give unsaved changes up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard: Option<bool>,
}

impl Ask for Load {
    const VERB: Verb = Verb::DocLoad;
    type Reply = Document;
}

/// `doc.save`: writes the file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Save {
    /// The lock's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// Write over what somebody else wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<bool>,
}

impl Ask for Save {
    const VERB: Verb = Verb::DocSave;
    type Reply = Saved;
}

/// `doc.undo`: takes the last change back.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Undo {
    /// The lock's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The revision that the change is meant for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_revision: Option<u64>,
}

impl Ask for Undo {
    const VERB: Verb = Verb::DocUndo;
    type Reply = Edited;
}

/// `doc.redo`: makes an undone change again.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Redo {
    /// The lock's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// The revision that the change is meant for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_revision: Option<u64>,
}

impl Ask for Redo {
    const VERB: Verb = Verb::DocRedo;
    type Reply = Edited;
}

impl SessionClient {
    /// Reads the document.
    pub fn document(&self, get: Get) -> Call<Get> {
        self.call(get)
    }

    /// Changes the document.
    ///
    /// ```no_run
    /// # use holdfast_client::{Edit, Error, SessionClient, document::Get};
    /// # async fn example(session: SessionClient) -> Result<(), Error> {
    /// let document = session.document(Get::default()).await?;
    /// let body = document.body.to_uppercase();
    /// // Nobody else's change is lost: if there was one, this is a `revision_mismatch`.
    /// session.edit(Edit::body(body).expecting(document.revision)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn edit(&self, edit: Edit) -> Call<Edit> {
        self.call(edit)
    }

    /// Reads the file again.
    pub fn load(&self, load: Load) -> Call<Load> {
        self.call(load)
    }

    /// Writes the file.
    pub fn save(&self, save: Save) -> Call<Save> {
        self.call(save)
    }

    /// Takes the last change back.
    pub fn undo(&self, undo: Undo) -> Call<Undo> {
        self.call(undo)
    }

    /// Makes an undone change again.
    pub fn redo(&self, redo: Redo) -> Call<Redo> {
        self.call(redo)
    }
}
