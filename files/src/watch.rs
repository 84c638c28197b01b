//! Who is told when something happens to a file.
//!
//! Deliberately absent: any conclusion. That something happened only makes the file's session look, and what is not
//! noticed here (on file systems that tell nothing of other machines, past the system's bound of watches) is noticed at
//! the session's next load or save.
//!
//! One watch per folder with files of sessions that are in memory and per folder above one, up to the workspace's. A
//! folder that goes, or comes back, is told of by the one above it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::Instant;

mod folders;

use crate::Tag;
use folders::Folders;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// How long a session that looked at its file has rest, however busy that is: each look may be a frame in its log.
const REST: Duration = Duration::from_secs(1);

/// All watches of a worker.
#[derive(Default)]
pub struct Watch {
    /// Made with the first session that has a file. Its thread takes `seen`, so nobody who holds that may ask it
    /// anything.
    watcher: Mutex<Option<RecommendedWatcher>>,
    seen: Arc<Seen>,
}

/// What the watching thread and the worker share.
#[derive(Default)]
struct Seen {
    folders: Mutex<Folders>,
    /// Sessions that are to look at their files.
    stirred: Mutex<HashSet<Tag>>,
    /// Folders that may have no more files of sessions.
    left: Mutex<HashSet<PathBuf>>,
    any: Notify,
}

/// One session's file, told of as long as this lives.
pub struct Watched {
    watch: Arc<Watch>,
    folder: PathBuf,
    name: String,
    session: Tag,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Notes that `session` has the file at `path` below `root`.
    pub fn register(self: &Arc<Self>, root: &Path, path: &str, session: &Tag) -> Option<Watched> {
        let path = root.join(path);
        let (folder, name) = (path.parent()?.to_owned(), path.file_name()?.to_str()?.to_owned());
        lock(&self.seen.folders).add(root, &folder, &name, session);
        Some(Watched { watch: self.clone(), folder, name, session: session.clone() })
    }

    /// Tells of what happens, for ever. `tell` says whether the session was told; if not, it is told again.
    pub async fn run(self: Arc<Self>, tell: impl Fn(&Tag) -> bool) {
        let mut told: HashMap<Tag, Instant> = HashMap::new();
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
        let due = lock(&self.seen.folders).take_due(folder);
        for folder in due {
            if let Err(error) = watch(&mut watcher, &self.seen, &folder) {
                lock(&self.seen.folders).is_not_watched(&folder);
                if !matches!(error.kind, notify::ErrorKind::PathNotFound) {
                    tracing::warn!(folder = %folder.display(), %error, "changes of files in this folder are noticed late");
                }
            }
        }
    }

    /// Watches `folder`, and those above it that were for its sake, no more; unless somebody came back.
    fn end(&self, folder: &Path) {
        let mut watcher = lock(&self.watcher);
        let over = lock(&self.seen.folders).take_over(folder);
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
    pub fn begin(&self) {
        self.watch.begin(&self.folder);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Self { watch, folder, name, session } = self;
        if lock(&watch.seen.folders).remove(folder, name, session) {
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
            let all = lock(&self.folders).all_anew();
            self.stir(all);
        } else if is_change(event.kind) {
            for path in &event.paths {
                let is_another = matches!(
                    event.kind,
                    EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
                );
                let stirred = {
                    let mut folders = lock(&self.folders);
                    if is_another { folders.at_another(path) } else { folders.at(path) }
                };
                self.stir(stirred);
            }
        }
    }

    fn stir(&self, sessions: impl IntoIterator<Item = Tag>) {
        let mut stirred = lock(&self.stirred);
        stirred.extend(sessions);
        if !stirred.is_empty() {
            self.any.notify_one();
        }
    }
}
