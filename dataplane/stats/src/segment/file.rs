//! The segment as a file: made beside its place and renamed into it, with what an earlier daemon
//! of this boot counted as the base of quick mode.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{Adoption, CreateError, Segment, Start};
use crate::{
    catalogue::{Kind, QuickMode, QuickModeCounters},
    layout::{Facts, Image, Layout, Place},
    map::Mapping,
    memory::Memory,
    seqlock::SEQUENCE_WORDS,
    snapshot::Snapshot,
};

impl Segment {
    /// Creates the segment file at `path` (mode 0640), in place of what is there.
    ///
    /// A readable segment of the same boot is adopted: its quick mode counters become the base of
    /// the new ones and its epoch theirs. Child SAs that died with the earlier process count as
    /// deleted. The new file appears whole or not at all; who has the old one open keeps it. The
    /// file stays when the segment is dropped, for the next start to adopt and for the dump tool.
    ///
    /// # Errors
    ///
    /// [`CreateError::InUse`] where a living process holds the segment at `path`, else what the
    /// file system reports. Contents that cannot be adopted are no error, see
    /// [`adoption`](Self::adoption).
    pub fn create(path: &Path, layout: &Layout, start: Start) -> Result<Self, CreateError> {
        let (adoption, epoch, base) = adopt(path, start)?;
        let facts = Facts { boot: start.boot, main_mode_epoch: start.at, quick_mode_epoch: epoch };
        let Image { mut words, places } = layout.image(&facts);
        let Place { first, words: len } = places[layout.quick_mode_base().0];
        words[first + SEQUENCE_WORDS..first + len].copy_from_slice(base.values());

        let fresh = temporary(path);
        let file = write_image(&fresh, &words)?;
        let mapping = Mapping::new(file, words.len())
            .and_then(|mapping| fs::rename(&fresh, path).map(|()| mapping))
            .inspect_err(|_| {
                let _ = fs::remove_file(&fresh);
            })?;
        Ok(Self::new(layout, Memory::Mapped(mapping), words.len(), places, adoption))
    }
}

/// Returns what the segment at `path` leaves to a new one: the quick mode epoch and base.
fn adopt(
    path: &Path,
    start: Start,
) -> Result<(Adoption, SystemTime, QuickModeCounters), CreateError> {
    let nothing = |adoption| Ok((adoption, start.at, QuickModeCounters::new()));
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing(Adoption::Nothing),
        Err(error) => return nothing(Adoption::Unreadable(error.into())),
    };
    let snapshot = match Snapshot::read_file(&file) {
        Ok(snapshot) => snapshot,
        Err(error) => return nothing(Adoption::Unreadable(error)),
    };
    // A shared lock, so that of two readers none is taken for a writer, which holds it alone.
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(CreateError::InUse { pid: snapshot.header().writer_pid });
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    if snapshot.header().boot != start.boot {
        return nothing(Adoption::OtherBoot);
    }
    let mut base = QuickModeCounters::new();
    for row in QuickMode::ALL {
        if row.descriptor().kind == Kind::Counter {
            base.set(row, snapshot.quick_mode(row));
        }
    }
    // The pairs of a process that was killed are gone without a deletion of their own.
    // key_additions - key_deletions + live soft SAs = active_sas must hold from zero active ones.
    let deletions = base.get(QuickMode::KeyDeletions).max(base.get(QuickMode::KeyAdditions));
    base.set(QuickMode::KeyDeletions, deletions);
    Ok((Adoption::Continued, snapshot.header().quick_mode_epoch, base))
}

/// A name beside `path` that only this process uses.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    path.with_file_name(name)
}

/// Writes `words` to a new file at `path`, every byte of it, so that no later store to the mapping
/// can find the file system full, and takes the lock that says the writer lives.
fn write_image(path: &Path, words: &[u64]) -> io::Result<File> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(path)?;
    file.set_permissions(Permissions::from_mode(0o640))?;
    file.lock()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    if let Err(error) = file.write_all(&bytes) {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}
