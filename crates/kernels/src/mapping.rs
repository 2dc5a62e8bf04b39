//! A file mapped into memory, read-only.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// The bytes of a file, paged in on first touch and shared between processes that map the same
/// file.
///
/// The file must not be truncated while it is mapped: the kernel answers a read past its end with
/// SIGBUS. Replace model files by renaming a new one over the old, never by writing into them.
#[derive(Debug)]
pub struct MappedFile {
    map: memmap2::Mmap,
}

// === impl MappedFile ===

impl MappedFile {
    /// Maps the whole file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is private and read-only, so nothing in this process can change the bytes
        // behind a `&[u8]`. That no other process changes or truncates the file is the operator's
        // duty, stated on the type; all values read from it are checked as untrusted, so a change
        // can cost a wrong answer but not memory safety beyond SIGBUS.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { map })
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Gives the pages that lie wholly inside `range` back to the system; a later read pages them
    /// in again.
    pub fn release(&self, range: Range<usize>) {
        const PAGE: usize = 4096;
        let start = range.start.next_multiple_of(PAGE);
        let end = range.end.min(self.map.len()) / PAGE * PAGE;
        if start < end {
            // SAFETY: the map is file-backed and read-only, so dropping its pages loses nothing:
            // the next access reads the same bytes from the file. The range lies inside the map and
            // is page-aligned. An error only means that memory stays resident, which is harmless.
            let _ = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    start,
                    end - start,
                )
            };
        }
    }
}
