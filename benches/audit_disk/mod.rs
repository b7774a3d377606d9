//! A disk in memory that costs nothing but the time of a sync, so that what is measured is the log.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use doorward::audit::storage::{SEALS, SegmentFile, Slot, Storage};
use zeroize::Zeroizing;

type Bytes = Arc<Mutex<Vec<u8>>>;

/// The disk.
#[derive(Clone)]
pub struct Memory {
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
    /// Notes and keys, each with the time of a sync: as the real disk makes each durable.
    small: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    sync: Duration,
}

impl Memory {
    /// One whose syncs take so long.
    pub fn new(sync: Duration) -> Self {
        Self { files: Arc::default(), small: Arc::default(), sync }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn small(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.small.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        std::thread::sleep(self.sync);
        self.small().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn file(&self, name: &str) -> io::Result<Bytes> {
        self.files().get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn bytes(file: &Bytes) -> MutexGuard<'_, Vec<u8>> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Storage for Memory {
    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn is_locked(&self) -> bool {
        false
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(bytes(&self.file(name)?).len() as u64)
    }

    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut content = Cursor::new(bytes(&self.file(name)?).clone());
        content.set_position(offset);
        Ok(Box::new(content))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        let file = Bytes::default();
        self.files().insert(name.to_owned(), Arc::clone(&file));
        Ok(Arc::new(Open { file, sync: self.sync }))
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        bytes(&self.file(name)?).truncate(len as usize);
        Ok(())
    }

    fn sync(&self, _name: &str) -> io::Result<()> {
        std::thread::sleep(self.sync);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.files().remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files().insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn note(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.small().get(name).cloned())
    }

    fn put_note(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(name, bytes)
    }

    fn seals(&self) -> io::Result<Vec<String>> {
        Ok(self.small().keys().filter_map(|name| name.strip_prefix(SEALS)).map(str::to_owned).collect())
    }

    fn key(&self, slot: Slot) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let name = if slot == Slot::Present { KEY } else { NEXT_KEY };
        Ok(self.small().get(name).cloned().map(Zeroizing::new))
    }

    fn put_next_key(&self, bytes: &[u8]) -> io::Result<()> {
        self.put(NEXT_KEY, bytes)
    }

    fn erase_key(&self) -> io::Result<()> {
        std::thread::sleep(self.sync);
        self.small().remove(KEY);
        Ok(())
    }

    fn promote_key(&self) -> io::Result<()> {
        std::thread::sleep(self.sync);
        let next = self.small().remove(NEXT_KEY).ok_or(io::ErrorKind::NotFound)?;
        self.small().insert(KEY.to_owned(), next);
        Ok(())
    }

    fn payloads(&self) -> io::Result<Vec<String>> {
        Ok(self.small().keys().filter_map(|name| name.strip_prefix(PAYLOADS)).map(str::to_owned).collect())
    }

    fn payload(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.small().get(&format!("{PAYLOADS}{name}")).cloned())
    }

    fn put_payload(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(&format!("{PAYLOADS}{name}"), bytes)
    }

    fn remove_payloads(&self, names: &[String]) -> io::Result<()> {
        names.iter().for_each(|name| drop(self.small().remove(&format!("{PAYLOADS}{name}"))));
        Ok(())
    }

    fn erase_payload(&self, name: &str) -> io::Result<()> {
        self.remove_payloads(&[name.to_owned()])
    }
}

const PAYLOADS: &str = "payloads/";

const KEY: &str = "key";
const NEXT_KEY: &str = "key.next";

struct Open {
    file: Bytes,
    sync: Duration,
}

impl SegmentFile for Open {
    fn append(&self, appended: &[u8]) -> io::Result<usize> {
        bytes(&self.file).extend_from_slice(appended);
        Ok(appended.len())
    }

    fn sync(&self) -> io::Result<()> {
        std::thread::sleep(self.sync);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        bytes(&self.file).truncate(len as usize);
        Ok(())
    }

    fn size_at(&self, _name: &str) -> io::Result<Option<u64>> {
        Ok(Some(bytes(&self.file).len() as u64))
    }
}
