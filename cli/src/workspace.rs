//! `--workspace NAME=DIR[:ro]`.

use std::path::PathBuf;

use holdfast_client::protocol::id::WorkspaceName;

/// A folder whose files a worker serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkspaceArg {
    /// Its name, the same on every worker that has it.
    pub(crate) name: WorkspaceName,
    /// Its path on this machine.
    pub(crate) folder: PathBuf,
    /// Whether its files may only be read.
    pub(crate) read_only: bool,
}

impl WorkspaceArg {
    /// Parses `NAME=DIR` or `NAME=DIR:ro`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, folder) = text.split_once('=').ok_or("a workspace is NAME=DIR or NAME=DIR:ro, like main=./notes")?;
        let name = WorkspaceName::parse(name).map_err(|error| error.message)?;
        let (folder, read_only) = match folder.strip_suffix(":ro") {
            Some(folder) => (folder, true),
            None => (folder, false),
        };
        if folder.is_empty() {
            return Err(format!("the workspace {name} has no folder"));
        }
        Ok(Self { name, folder: folder.into(), read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, bool) {
        let workspace = WorkspaceArg::parse(text).unwrap();
        (workspace.name.to_string(), workspace.folder.display().to_string(), workspace.read_only)
    }

    #[test]
    fn a_workspace_has_a_name_and_a_folder() {
        assert_eq!(parsed("main=notes"), ("main".into(), "notes".into(), false));
        assert_eq!(parsed("main=/a/b:ro"), ("main".into(), "/a/b".into(), true));
        assert_eq!(parsed("m=a=b:c"), ("m".into(), "a=b:c".into(), false));
    }

    #[test]
    fn a_bad_workspace_is_refused() {
        for text in ["main", "=dir", "main=", "main=:ro", "a.b=dir", ""] {
            assert!(WorkspaceArg::parse(text).is_err(), "{text:?}");
        }
    }
}
