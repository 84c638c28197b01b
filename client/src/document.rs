//! `doc.*`: get, edit, load, save, undo, redo.

use holdfast_protocol::reply::{Document, Edited, Saved};
use holdfast_protocol::request::{DocGet, Edit, Load, Save, Undo};
use holdfast_protocol::subject::Verb;

use crate::call::Call;
use crate::client::SessionClient;

impl SessionClient {
    /// Reads the document.
    pub fn document(&self, get: DocGet) -> Call<Document> {
        self.call(Verb::DocGet, &get)
    }

    /// Changes the document.
    ///
    /// ```no_run
    /// # use holdfast_client::{DocGet, Edit, Error, SessionClient};
    /// # async fn example(session: SessionClient) -> Result<(), Error> {
    /// let document = session.document(DocGet::default()).await?;
    /// let body = document.body.to_uppercase();
    /// // Nobody else's change is lost: if there was one, this is a `revision_mismatch`.
    /// session.edit(Edit::body(body).expecting(document.revision)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn edit(&self, edit: Edit) -> Call<Edited> {
        self.call(Verb::DocEdit, &edit)
    }

    /// Reads the file again.
    pub fn load(&self, load: Load) -> Call<Document> {
        self.call(Verb::DocLoad, &load)
    }

    /// Writes the file.
    pub fn save(&self, save: Save) -> Call<Saved> {
        self.call(Verb::DocSave, &save)
    }

    /// Undoes the last change.
    pub fn undo(&self, undo: Undo) -> Call<Edited> {
        self.call(Verb::DocUndo, &undo)
    }

    /// Redoes an undone change.
    pub fn redo(&self, redo: Undo) -> Call<Edited> {
        self.call(Verb::DocRedo, &redo)
    }
}
