//! Who is told when something happens to a file.
//!
//! Deliberately absent: any conclusion. That something happened only makes the file's session look, and what is not noticed
//! here (on file systems that tell nothing of other machines, past the system's bound of watches) is noticed at the session's
//! next load or save.
//!
//! One watch per folder with files of sessions that are in memory and per folder above one, up to the workspace's. A folder that
//! goes, or comes back, is told of by the one above it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_protocol::SessionKey;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::Instant;
use unicode_normalization::UnicodeNormalization;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// How long a session that looked at its file has rest, however busy that is: each look may be a frame in its log.
const REST: Duration = Duration::from_secs(1);

/// All watches of a worker.
#[derive(Default)]
pub(crate) struct Watch {
    /// Made with the first session that has a file. Its thread takes `seen`, so nobody who holds that may ask it anything.
    watcher: Mutex<Option<RecommendedWatcher>>,
    seen: Arc<Seen>,
}

/// What the watching thread and the worker share.
#[derive(Default)]
struct Seen {
    folders: Mutex<Folders>,
    /// Sessions that are to look at their files.
    stirred: Mutex<HashSet<SessionKey>>,
    /// Folders that may have no more files of sessions.
    left: Mutex<HashSet<PathBuf>>,
    any: Notify,
}

#[derive(Default)]
struct Folder {
    is_watched: bool,
    /// The folder above counts this one.
    is_counted: bool,
    /// How many folders right below are here.
    below: usize,
    /// Sessions by the names of their files. One session is there as often as it was registered.
    sessions: HashMap<String, Vec<SessionKey>>,
}

/// In the order of their names, so that those below one are together.
type Folders = BTreeMap<PathBuf, Folder>;

/// One session's file, told of as long as this lives.
pub(crate) struct Watched {
    watch: Arc<Watch>,
    folder: PathBuf,
    name: String,
    session: SessionKey,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Notes that `session` has the file at `path` below `root`.
    pub(crate) fn register(self: &Arc<Self>, root: &Path, path: &str, session: &SessionKey) -> Option<Watched> {
        let path = root.join(path);
        let (folder, name) = (path.parent()?.to_owned(), path.file_name()?.to_str()?.to_owned());
        let mut folders = lock(&self.seen.folders);
        let sessions = &mut folders.entry(folder.clone()).or_default().sessions;
        sessions.entry(name.clone()).or_default().push(session.clone());
        count(&mut folders, root, &folder);
        drop(folders);
        Some(Watched { watch: self.clone(), folder, name, session: session.clone() })
    }

    /// Tells of what happens, for ever. `tell` says whether the session was told; if not, it is told again.
    pub(crate) async fn run(self: Arc<Self>, tell: impl Fn(&SessionKey) -> bool) {
        let mut told: HashMap<SessionKey, Instant> = HashMap::new();
        loop {
            self.seen.any.notified().await;
            tokio::time::sleep(GATHER).await;
            told.retain(|_, at| at.elapsed() < REST);
            let stirred = std::mem::take(&mut *lock(&self.seen.stirred));
            for session in stirred {
                if !told.contains_key(&session) && tell(&session) {
                    told.insert(session, Instant::now());
                } else {
                    self.seen.stir([session]);
                }
            }
            let left = std::mem::take(&mut *lock(&self.seen.left));
            if !left.is_empty() {
                let watch = self.clone();
                // Whoever asks the watching thread may have to wait for it.
                let ended = tokio::task::spawn_blocking(move || left.iter().for_each(|folder| watch.end(folder))).await;
                if let Err(error) = ended {
                    tracing::warn!(%error, "folders may be watched for nothing");
                }
            }
        }
    }

    /// Watches `folder` and those above it, each unless it is watched or not there.
    fn begin(&self, folder: &Path) {
        let mut watcher = lock(&self.watcher);
        // From above: what is made in a folder that is watched already is told of.
        let due = due(&mut lock(&self.seen.folders), folder);
        for folder in due.iter().rev() {
            if let Err(error) = watch(&mut watcher, &self.seen, folder) {
                if let Some(folder) = lock(&self.seen.folders).get_mut(folder) {
                    folder.is_watched = false;
                }
                if !matches!(error.kind, notify::ErrorKind::PathNotFound) {
                    tracing::warn!(folder = %folder.display(), %error, "changes of files in this folder are noticed late");
                }
            }
        }
    }

    /// Watches `folder`, and those above it that were for its sake, no more; unless somebody came back.
    fn end(&self, folder: &Path) {
        let mut watcher = lock(&self.watcher);
        let over = over(&mut lock(&self.seen.folders), folder);
        for folder in over {
            if let Some(watcher) = &mut *watcher
                && let Err(error) = watcher.unwatch(&folder)
                && !matches!(error.kind, notify::ErrorKind::WatchNotFound)
            {
                tracing::debug!(folder = %folder.display(), %error, "a folder was watched no more");
            }
        }
    }
}

/// Counts `folder` in the one above, and so on up to `root`.
fn count(folders: &mut Folders, root: &Path, folder: &Path) {
    let mut at = folder;
    while at != root {
        let Some(above) = at.parent() else { return };
        // Another workspace's folders may end in between.
        if !std::mem::replace(&mut folders.entry(at.to_owned()).or_default().is_counted, true) {
            folders.entry(above.to_owned()).or_default().below += 1;
        }
        at = above;
    }
}

/// Of `folder` and those above it, the ones to be watched that are not; they count as watched from now on.
fn due(folders: &mut Folders, folder: &Path) -> Vec<PathBuf> {
    let mut due = Vec::new();
    for at in folder.ancestors() {
        let Some(found) = folders.get_mut(at) else { break };
        if !std::mem::replace(&mut found.is_watched, true) {
            due.push(at.to_owned());
        }
        if !found.is_counted {
            break;
        }
    }
    due
}

/// Forgets `folder` and those above it as far as nobody needs them, and says which. Any of them may be watched, also where it
/// does not count as that.
fn over(folders: &mut Folders, folder: &Path) -> Vec<PathBuf> {
    let mut over = Vec::new();
    for at in folder.ancestors() {
        if !folders.get(at).is_some_and(Folder::is_over) {
            break;
        }
        let Some(gone) = folders.remove(at) else { break };
        over.push(at.to_owned());
        if !gone.is_counted {
            break;
        }
        if let Some(above) = at.parent().and_then(|above| folders.get_mut(above)) {
            above.below -= 1;
        }
    }
    over
}

fn watch(watcher: &mut Option<RecommendedWatcher>, seen: &Arc<Seen>, folder: &Path) -> notify::Result<()> {
    let watcher = match watcher {
        Some(watcher) => watcher,
        None => {
            let seen = seen.clone();
            let tell = move |event: notify::Result<Event>| seen.see(event);
            watcher.insert(notify::recommended_watcher(tell)?)
        }
    };
    // The one that was called so before may have been moved away, and is watched still.
    watcher.unwatch(folder).ok();
    // What a link leads to may be watched under its own name, and the system has one watch for both.
    if !folder.canonicalize().is_ok_and(|real| real == folder) {
        return Err(notify::Error::path_not_found());
    }
    watcher.watch(folder, RecursiveMode::NonRecursive)
}

impl Watched {
    /// From now on its session is told. Again after its folder was made. It may have to wait for the watching thread.
    pub(crate) fn begin(&self) {
        self.watch.begin(&self.folder);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Self { watch, folder, name, session } = self;
        let mut folders = lock(&watch.seen.folders);
        let Some(found) = folders.get_mut(folder) else { return };
        if let Some(sessions) = found.sessions.get_mut(name) {
            if let Some(place) = sessions.iter().position(|other| other == session) {
                sessions.swap_remove(place);
            }
            if sessions.is_empty() {
                found.sessions.remove(name);
            }
        }
        if found.is_over() {
            lock(&watch.seen.left).insert(std::mem::take(folder));
            watch.seen.any.notify_one();
        }
    }
}

/// Whether it can have changed a file. Who looks opens and closes files, and must not be told of that.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}

impl Seen {
    /// What the system tells, on its own thread.
    fn see(&self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "changes of files may be noticed late");
                return;
            }
        };
        if event.need_rescan() {
            // Whether a folder is gone may be among what was missed.
            let mut folders = lock(&self.folders);
            folders.values_mut().for_each(|folder| folder.is_watched = false);
            let all: Vec<SessionKey> = folders.values().flat_map(Folder::all).collect();
            drop(folders);
            self.stir(all);
        } else if is_change(event.kind) {
            for path in &event.paths {
                let is_another = matches!(
                    event.kind,
                    EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
                );
                let stirred = self.sessions_at(path, is_another);
                self.stir(stirred);
            }
        }
    }

    /// Whose file is at `path`, or whose files are below it. Folders that are not what they were are watched no more.
    fn sessions_at(&self, path: &Path, is_another: bool) -> Vec<SessionKey> {
        let mut folders = lock(&self.folders);
        if let Some(folder) = folders.get(path) {
            if !is_another {
                return folder.all().collect();
            }
            let from = folders.range_mut::<Path, _>((Bound::Included(path), Bound::Unbounded));
            let below = from.take_while(|(folder, _)| folder.starts_with(path));
            let stirred = below.flat_map(|(_, folder)| {
                folder.is_watched = false;
                folder.all()
            });
            return stirred.collect();
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Vec::new();
        };
        let sessions = folders.get(folder).map(|folder| &folder.sessions);
        let composed = || name.nfc().collect::<String>();
        sessions
            .and_then(|sessions| sessions.get(name).or_else(|| sessions.get(&composed())).cloned())
            .unwrap_or_default()
    }

    fn stir(&self, sessions: impl IntoIterator<Item = SessionKey>) {
        let mut stirred = lock(&self.stirred);
        stirred.extend(sessions);
        if !stirred.is_empty() {
            self.any.notify_one();
        }
    }
}

impl Folder {
    /// Nobody needs it any more.
    fn is_over(&self) -> bool {
        self.sessions.is_empty() && self.below == 0
    }

    fn all(&self) -> impl Iterator<Item = SessionKey> {
        self.sessions.values().flatten().cloned()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_protocol::{Namespace, SessionId};

    use super::*;

    #[test]
    fn folders_are_known_as_long_as_somebody_has_a_file_below_them() {
        let watch = Arc::new(Watch::default());
        let session = SessionKey::new(Namespace::parse("default").unwrap(), SessionId::parse("s1").unwrap());
        let register = |root: &str, path: &str| watch.register(Path::new(root), path, &session).unwrap();
        let known = || {
            let known: Vec<PathBuf> = lock(&watch.seen.folders).keys().cloned().collect();
            known.iter().map(|folder| folder.to_str().unwrap().to_owned()).collect::<Vec<String>>()
        };
        let drop_and_end = |watched: Watched| {
            drop(watched);
            let left = std::mem::take(&mut *lock(&watch.seen.left));
            left.iter().for_each(|folder| watch.end(folder));
        };
        // A workspace within another, and the same file twice.
        let files = [("/w/a", "x.md"), ("/w/a", "b/y.md"), ("/w", "a/b/c/z.md"), ("/w", "a/b/c/z.md")];
        let mut all: Vec<Watched> = files.iter().map(|(root, path)| register(root, path)).collect();
        assert_eq!(known(), ["/w", "/w/a", "/w/a/b", "/w/a/b/c"]);
        let due = due(&mut lock(&watch.seen.folders), Path::new("/w/a/b/c"));
        assert_eq!(due, ["/w/a/b/c", "/w/a/b", "/w/a", "/w"].map(PathBuf::from));
        drop_and_end(all.remove(3));
        assert_eq!(known().len(), 4);
        drop_and_end(all.remove(2));
        assert_eq!(known(), ["/w", "/w/a", "/w/a/b"]);
        drop_and_end(all.remove(1));
        drop_and_end(all.remove(0));
        assert_eq!(known(), Vec::<String>::new());
    }
}
