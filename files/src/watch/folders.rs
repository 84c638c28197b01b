//! Which folders have files of sessions in or below them, and which of them are watched. Nothing here asks the system.
//!
//! Invariant: every folder between a workspace's own and one with a file of a session is here, counted by the one above
//! it, for as long as somebody needs it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use crate::Tag;

#[derive(Default)]
struct Folder {
    is_watched: bool,
    /// The folder above counts this one.
    is_counted: bool,
    /// How many folders right below are here.
    below: usize,
    /// Sessions by the names of their files. One session is there as often as it was registered.
    sessions: HashMap<String, Vec<Tag>>,
}

/// All of them, in the order of their names, so that those below one are together.
#[derive(Default)]
pub(super) struct Folders(BTreeMap<PathBuf, Folder>);

impl Folder {
    fn is_over(&self) -> bool {
        self.sessions.is_empty() && self.below == 0
    }

    fn all(&self) -> impl Iterator<Item = Tag> {
        self.sessions.values().flatten().cloned()
    }
}

impl Folders {
    /// Notes that `session` has a file called `name` in `folder`, in the workspace at `root`.
    pub(super) fn add(&mut self, root: &Path, folder: &Path, name: &str, session: &Tag) {
        let sessions = &mut self.0.entry(folder.to_owned()).or_default().sessions;
        sessions.entry(name.to_owned()).or_default().push(session.clone());
        let mut at = folder;
        while at != root {
            let Some(above) = at.parent() else { return };
            // Another workspace's folders may end in between.
            if !std::mem::replace(&mut self.0.entry(at.to_owned()).or_default().is_counted, true) {
                self.0.entry(above.to_owned()).or_default().below += 1;
            }
            at = above;
        }
    }

    /// Takes that back. Returns whether nobody needs the folder any more; it is here until [`Folders::take_over`].
    pub(super) fn remove(&mut self, folder: &Path, name: &str, session: &Tag) -> bool {
        let Some(found) = self.0.get_mut(folder) else { return false };
        if let Some(sessions) = found.sessions.get_mut(name) {
            if let Some(place) = sessions.iter().position(|other| other == session) {
                sessions.swap_remove(place);
            }
            if sessions.is_empty() {
                found.sessions.remove(name);
            }
        }
        found.is_over()
    }

    /// Of `folder` and those above it, the ones to be watched that are not, from above; they count as watched from now
    /// on.
    pub(super) fn take_due(&mut self, folder: &Path) -> Vec<PathBuf> {
        let mut due = Vec::new();
        for at in folder.ancestors() {
            let Some(found) = self.0.get_mut(at) else { break };
            if !std::mem::replace(&mut found.is_watched, true) {
                due.push(at.to_owned());
            }
            if !found.is_counted {
                break;
            }
        }
        due.reverse();
        due
    }

    /// `folder` could not be watched.
    pub(super) fn is_not_watched(&mut self, folder: &Path) {
        if let Some(folder) = self.0.get_mut(folder) {
            folder.is_watched = false;
        }
    }

    /// Forgets `folder` and those above it as far as nobody needs them, and says which. Any of them may be watched,
    /// also where it does not count as that.
    pub(super) fn take_over(&mut self, folder: &Path) -> Vec<PathBuf> {
        let mut over = Vec::new();
        for at in folder.ancestors() {
            if !self.0.get(at).is_some_and(Folder::is_over) {
                break;
            }
            let Some(gone) = self.0.remove(at) else { break };
            over.push(at.to_owned());
            if !gone.is_counted {
                break;
            }
            if let Some(above) = at.parent().and_then(|above| self.0.get_mut(above)) {
                above.below -= 1;
            }
        }
        over
    }

    /// Something was missed: any folder may be another one. All sessions.
    pub(super) fn all_anew(&mut self) -> Vec<Tag> {
        self.0.values_mut().for_each(|folder| folder.is_watched = false);
        self.0.values().flat_map(Folder::all).collect()
    }

    /// Whose file is at `path`, or whose files are in the folder there.
    pub(super) fn at(&self, path: &Path) -> Vec<Tag> {
        if let Some(folder) = self.0.get(path) {
            return folder.all().collect();
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Vec::new();
        };
        let sessions = self.0.get(folder).map(|folder| &folder.sessions);
        let composed = || name.nfc().collect::<String>();
        sessions
            .and_then(|sessions| sessions.get(name).or_else(|| sessions.get(&composed())).cloned())
            .unwrap_or_default()
    }

    /// As [`Folders::at`], where what is called so went, or came: in place of a folder, all below that are not what
    /// they were.
    pub(super) fn at_another(&mut self, path: &Path) -> Vec<Tag> {
        if !self.0.contains_key(path) {
            return self.at(path);
        }
        let from = self.0.range_mut::<Path, _>((Bound::Included(path), Bound::Unbounded));
        let below = from.take_while(|(folder, _)| folder.starts_with(path));
        let stirred = below.flat_map(|(_, folder)| {
            folder.is_watched = false;
            folder.all()
        });
        stirred.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str) -> Tag {
        id.into()
    }

    fn known(folders: &Folders) -> Vec<&str> {
        folders.0.keys().map(|folder| folder.to_str().unwrap()).collect()
    }

    #[test]
    fn folders_are_known_as_long_as_somebody_has_a_file_below_them() {
        // A workspace within another, and the same file twice.
        let files = [
            ("/w/a", "/w/a", "x.md"),
            ("/w/a", "/w/a/b", "y.md"),
            ("/w", "/w/a/b/c", "z.md"),
            ("/w", "/w/a/b/c", "z.md"),
        ];
        let mut folders = Folders::default();
        for (root, folder, name) in files {
            folders.add(Path::new(root), Path::new(folder), name, &session("s1"));
        }
        assert_eq!(known(&folders), ["/w", "/w/a", "/w/a/b", "/w/a/b/c"]);
        let mut end = |number: usize| {
            let (_, folder, name) = files[number];
            let is_over = folders.remove(Path::new(folder), name, &session("s1"));
            let over = folders.take_over(Path::new(folder));
            assert_eq!(is_over, !over.is_empty());
            known(&folders).join(" ")
        };
        assert_eq!(end(3), "/w /w/a /w/a/b /w/a/b/c");
        assert_eq!(end(2), "/w /w/a /w/a/b");
        assert_eq!(end(1), "/w /w/a");
        assert_eq!(end(0), "");
    }

    #[test]
    fn a_folder_that_is_another_one_is_watched_anew_with_all_below() {
        let mut folders = Folders::default();
        for (folder, name, id) in [("/w/a/b", "x.md", "x"), ("/w/a", "y.md", "y"), ("/w/ab", "z.md", "z")] {
            folders.add(Path::new("/w"), Path::new(folder), name, &session(id));
        }
        let due = |folders: &mut Folders, folder: &str| -> Vec<String> {
            folders.take_due(Path::new(folder)).iter().map(|path| path.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(due(&mut folders, "/w/a/b"), ["/w", "/w/a", "/w/a/b"]);
        assert_eq!(due(&mut folders, "/w/ab"), ["/w/ab"]);
        assert_eq!(
            folders.at(Path::new("/w/a")),
            [session("y")],
            "a folder that was touched says nothing of those below"
        );
        assert_eq!(folders.at(Path::new("/w/a/b/x.md")), [session("x")]);
        assert_eq!(folders.at_another(Path::new("/w/a")), [session("y"), session("x")]);
        assert_eq!(due(&mut folders, "/w/a/b"), ["/w/a", "/w/a/b"]);
        assert_eq!(due(&mut folders, "/w/ab"), Vec::<String>::new());
        folders.is_not_watched(Path::new("/w/ab"));
        assert_eq!(due(&mut folders, "/w/ab"), ["/w/ab"]);
        assert_eq!(folders.all_anew().len(), 3);
        assert_eq!(due(&mut folders, "/w/ab"), ["/w", "/w/ab"]);
    }
}
