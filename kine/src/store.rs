//! The in-process store: a clonable handle to the index and the writer thread.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use crate::catch_up::Latest;
use crate::commands::{Command, Reply};
use crate::error::{Error, Result};
use crate::eval::{Evaluator, check_revision};
use crate::gather::gather;
use crate::hub::Hub;
use crate::inbox::Inbox;
use crate::index::Index;
use crate::kv::KeyValue;
use crate::lessor::{LeaseId, LeaseTtl, Lessor};
use crate::limits::{LOG_READERS_MAX, SCAN_CHUNK_KEYS};
use crate::log::memory::MemoryLog;
use crate::log::sqlite::SqliteLog;
use crate::log::{Loaded, Log, LogError, LogReader};
use crate::overlay::Overlay;
use crate::range::{KeyRange, RangeRequest, RangeResponse, RawRange};
use crate::readers::Readers;
use crate::revision::Revision;
use crate::sql::{Database, SqlLog};
use crate::ttl::TtlLeases;
use crate::txn::{DeleteRequest, DeleteResponse, Op, OpResponse, PutRequest, PutResponse, RawTxn, Txn, TxnResponse};
use crate::watcher::{WatchRequest, Watcher};
use crate::writer::{Writer, unix_now_ms};

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// The SQLite file; `None` keeps everything in memory.
    pub path: Option<PathBuf>,
    /// A database server in place of a file; other stores may use it at the same time.
    pub database: Option<Database>,
    /// Compact history older than this by itself; `None` leaves it to callers of `compact`.
    pub retention: Option<Duration>,
    /// Refuse to grow beyond this many bytes in use, with etcd's NOSPACE alarm; `None` leaves it to the disk.
    pub quota: Option<u64>,
}

impl StoreOptions {
    /// A store in this file.
    pub fn sqlite(path: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions { path: Some(path.into()), ..StoreOptions::default() }
    }

    /// A store in a database, shared with all other stores that are opened on it.
    pub fn database(database: Database) -> StoreOptions {
        StoreOptions { database: Some(database), ..StoreOptions::default() }
    }

    /// A store that ends with the process.
    pub fn memory() -> StoreOptions {
        StoreOptions::default()
    }

    /// Keep this much history.
    pub fn retention(mut self, retention: Duration) -> StoreOptions {
        self.retention = Some(retention);
        self
    }

    /// Refuse to grow beyond this many bytes.
    pub fn quota(mut self, bytes: u64) -> StoreOptions {
        self.quota = Some(bytes);
        self
    }
}

/// What the store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: Revision,
    pub compact_revision: Revision,
    /// Bytes on disk, WAL included.
    pub size: u64,
    /// Bytes that hold data.
    pub size_in_use: u64,
    /// The NOSPACE alarm is raised: nothing that adds data is accepted.
    pub no_space: bool,
}

/// What handle, writer and watchers share.
pub(crate) struct Shared {
    pub(crate) index: RwLock<Index>,
    pub(crate) lessor: Mutex<Lessor>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) inbox: Inbox,
    pub(crate) readers: Readers,
    /// Where the store was opened, if tasks run there.
    pub(crate) runtime: Option<Handle>,
    ttl_leases: Mutex<TtlLeases>,
    pub(crate) no_space: AtomicBool,
    /// How far this store is with a log that others write as well.
    pub(crate) latest: Latest,
    /// Where temporary files may lie.
    pub(crate) scratch: PathBuf,
    /// One snapshot at a time.
    pub(crate) snapshot_turn: Arc<Semaphore>,
    cluster_id: u64,
    member_id: u64,
}

impl Shared {
    /// Runs a read of the log on a thread that may block.
    pub(crate) async fn read_log<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut dyn LogReader) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T> {
        self.readers.run(read).await
    }

    /// Reads superseded values from the log into a range.
    async fn fill(&self, raw: &mut RawRange) -> Result<()> {
        let missing = std::mem::take(&mut raw.missing);
        if missing.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = missing.iter().map(|(_, id)| *id).collect();
        let records = self.read_log(move |reader| reader.get(&ids)).await?;
        for ((position, _), record) in missing.into_iter().zip(records) {
            let Some(record) = record else {
                let compact_revision = self.index.read().compacted();
                return Err(Error::Compacted { compact_revision });
            };
            raw.kvs[position].value = record.value.unwrap_or_default();
        }
        Ok(())
    }
}

/// Closes the inbox when the last handle is dropped, so that the thread ends.
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.inbox.close();
    }
}

/// A revisioned key-value store. Cheap to clone; all clones are the same store.
#[derive(Clone)]
pub struct Store {
    owner: Arc<Owner>,
}

impl Store {
    /// Opens a store; creates the file if there is none. The folder must exist.
    ///
    /// Fails if the file is in use ([`Error::InUse`]), damaged ([`Error::Corrupt`]) or not a
    /// datastore of this version ([`Error::Open`]); it is then left as it was.
    pub async fn open(options: StoreOptions) -> Result<Store> {
        let opened = tokio::task::spawn_blocking(move || {
            let log: Box<dyn Log> = match (&options.path, &options.database) {
                (_, Some(database)) => {
                    Box::new(SqlLog::open(database.engine(), &database.to_string(), || (random_id(), random_id()))?)
                }
                (Some(path), None) => Box::new(SqliteLog::open(path, || (random_id(), random_id()))?),
                (None, None) => Box::<MemoryLog>::default(),
            };
            Store::over(log, &options)
        });
        opened.await.map_err(|e| Error::Read(e.to_string()))?
    }

    /// A store over any log.
    pub(crate) fn over(mut log: Box<dyn Log>, options: &StoreOptions) -> Result<Store> {
        let is_shared = log.is_shared();
        let (index, lessor, loaded) = load(log.as_mut())?;
        let readers = (0..LOG_READERS_MAX)
            .map(|_| log.reader())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Error::Read(e.to_string()))?;
        let shared = Arc::new(Shared {
            hub: Arc::new(Hub::new(index.revision())),
            index: RwLock::new(index),
            lessor: Mutex::new(lessor),
            inbox: Inbox::new(),
            readers: Readers::new(readers),
            runtime: Handle::try_current().ok(),
            ttl_leases: Mutex::default(),
            latest: Latest::new(is_shared),
            no_space: AtomicBool::new(loaded.no_space),
            scratch: scratch(options.path.as_deref()),
            snapshot_turn: Arc::new(Semaphore::new(1)),
            cluster_id: loaded.cluster_id,
            member_id: loaded.member_id,
        });
        shared.latest.reached(shared.index.read().revision());
        log.shown(shared.index.read().compacted());
        let waking = Arc::downgrade(&shared);
        log.listen(Arc::new(move || {
            if let Some(shared) = waking.upgrade() {
                shared.inbox.nudge();
            }
        }));
        let writer = Writer::new(shared.clone(), log, options, loaded.clean);
        let thread = std::thread::Builder::new()
            .name("kine-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| Error::Write(e.to_string()))?;
        Ok(Store { owner: Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) }) })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// The newest committed revision.
    pub fn current_revision(&self) -> Revision {
        self.shared().index.read().revision()
    }

    /// The oldest revision that can be read; 0 before the first compaction.
    pub fn compact_revision(&self) -> Revision {
        self.shared().index.read().compacted()
    }

    /// A key as it is now. Answers from memory, at once.
    pub fn get(&self, key: &[u8]) -> Option<KeyValue> {
        let index = self.shared().index.read();
        let (key, entry) = index.get(key)?;
        let (version, value) = entry.at(Revision(u64::MAX))?;
        (!version.is_tombstone()).then(|| version.with(key, value.cloned().unwrap_or_default()))
    }

    /// A range of keys at one revision. Reads of the current revision answer from memory.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        if request.range.start.is_empty() {
            return Err(Error::EmptyKey);
        }
        // A read of "now" that compaction overtakes between two chunks starts again.
        loop {
            match self.range_once(request.clone()).await {
                Err(Error::Compacted { .. }) if request.revision.0 == 0 => {}
                result => return result,
            }
        }
    }

    async fn range_once(&self, request: RangeRequest) -> Result<RangeResponse> {
        let shared = self.shared();
        if request.revision.0 == 0 || request.revision > self.current_revision() {
            self.catch_up().await?;
        }
        let mut at = request.revision;
        let mut raw: Option<RawRange> = None;
        let mut from = None;
        loop {
            {
                let index = shared.index.read();
                check_revision(at, index.revision(), index.compacted())?;
                if at.0 == 0 {
                    at = index.revision();
                }
                let raw = raw.get_or_insert_with(|| RawRange::new(request.clone(), index.revision()));
                from = gather(&index, raw, at, from.as_ref(), SCAN_CHUNK_KEYS);
            }
            if from.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let mut raw = raw.unwrap_or_else(|| RawRange::new(request, at));
        shared.fill(&mut raw).await?;
        Ok(raw.finish())
    }

    /// Runs a transaction; answers after it is durable.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        txn.check()?;
        let weight = txn.weight();
        let mut raw = match txn.is_read_only() {
            true => {
                self.catch_up().await?;
                self.read_only(&txn)?
            }
            false => self.ask(weight, |reply| Command::Txn(txn, reply)).await?,
        };
        for range in raw.ranges_mut() {
            self.shared().fill(range).await?;
        }
        Ok(raw.finish())
    }

    /// A transaction that cannot write needs no writer.
    fn read_only(&self, txn: &Txn) -> Result<RawTxn> {
        let index = self.shared().index.read();
        let lessor = self.shared().lessor.lock();
        let mut overlay = Overlay::new(index.revision());
        Evaluator { index: &index, lessor: &lessor, overlay: &mut overlay }.txn(txn)
    }

    /// Writes one key.
    pub async fn put(&self, put: PutRequest) -> Result<PutResponse> {
        match self.one(Op::Put(put)).await? {
            OpResponse::Put(response) => Ok(response),
            other => Err(mismatch(&other)),
        }
    }

    /// Writes one key that goes away after `ttl` (and up to a minute more) unless written again.
    pub async fn put_with_ttl(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<PutResponse> {
        let mut put = PutRequest::new(key, value);
        put.lease = self.ttl_lease(ttl).await?;
        match self.put(put.clone()).await {
            // Somebody revoked the shared lease.
            Err(Error::LeaseNotFound) => {
                self.lost_lease(put.lease);
                put.lease = self.ttl_lease(ttl).await?;
                self.put(put).await
            }
            result => result,
        }
    }

    /// A shared lease for one key that should live at least `ttl`, for use in a `PutRequest`.
    pub async fn ttl_lease(&self, ttl: Duration) -> Result<LeaseId> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let now = Instant::now();
        if let Some(id) = self.shared().ttl_leases.lock().take(seconds, now) {
            return Ok(id);
        }
        // Every key attached during the reuse time must live its whole TTL.
        let granted = ttl.saturating_add(crate::limits::TTL_LEASE_REUSE).as_secs();
        let (id, _) = self.lease_grant(0, i64::try_from(granted).unwrap_or(i64::MAX)).await?;
        self.shared().ttl_leases.lock().opened(seconds, id, now);
        Ok(id)
    }

    /// Forgets a shared lease of [`Store::ttl_lease`] that somebody revoked.
    pub fn lost_lease(&self, id: LeaseId) {
        self.shared().ttl_leases.lock().gone(id);
    }

    /// Deletes a range.
    pub async fn delete(&self, range: KeyRange) -> Result<DeleteResponse> {
        self.delete_range(DeleteRequest { range, prev_kv: false }).await
    }

    /// Deletes a range, with every option.
    pub async fn delete_range(&self, delete: DeleteRequest) -> Result<DeleteResponse> {
        match self.one(Op::Delete(delete)).await? {
            OpResponse::Delete(response) => Ok(response),
            other => Err(mismatch(&other)),
        }
    }

    async fn one(&self, op: Op) -> Result<OpResponse> {
        let mut response = self.txn(Txn::new().then(op)).await?;
        response.responses.pop().ok_or(Error::Stopped)
    }

    /// Watches a range. Events before the present are replayed first, in order, without a gap.
    pub fn watch(&self, request: WatchRequest) -> Result<Watcher> {
        Watcher::new(self.shared().clone(), request)
    }

    /// Forgets history below `revision`. With `physical`, answers when it is gone from disk.
    pub async fn compact(&self, revision: Revision, physical: bool) -> Result<()> {
        self.ask(0, |reply| Command::Compact { revision, physical, reply }).await
    }

    /// Gives all free space back to the file system.
    pub async fn defragment(&self) -> Result<()> {
        self.ask(0, |reply| Command::Defragment { reply }).await
    }

    /// True while the NOSPACE alarm is raised.
    pub fn no_space(&self) -> bool {
        self.shared().no_space.load(Ordering::Relaxed)
    }

    /// Raises or disarms the NOSPACE alarm. Disarmed too early it comes back with the next write.
    pub async fn set_no_space(&self, raise: bool) -> Result<()> {
        self.ask(0, |reply| Command::NoSpace { raise, reply }).await
    }

    /// Grants a lease of `ttl` seconds; `id` 0 chooses one. Answers id and TTL given.
    pub async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        let chosen = id == 0;
        loop {
            let id = if chosen { (random_id() >> 1).cast_signed().max(1) } else { id };
            match self.ask(0, |reply| Command::Grant { id, ttl, reply }).await {
                Err(Error::LeaseExists) if chosen => {}
                result => return Ok((id, result?)),
            }
        }
    }

    /// Ends a lease and deletes its keys. Answers the store's revision after that.
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Revision> {
        self.ask(0, |reply| Command::Revoke { id, reply }).await
    }

    /// Starts a lease's time anew; answers its TTL. Costs no write of its own.
    pub fn lease_keep_alive(&self, id: LeaseId) -> Result<i64> {
        let mut lessor = self.shared().lessor.lock();
        let first = lessor.flush_due().is_none();
        let ttl = lessor.renew(id, Instant::now()).ok_or(Error::LeaseNotFound)?;
        drop(lessor);
        if first {
            self.shared().inbox.nudge();
        }
        Ok(ttl)
    }

    /// As [`Store::lease_keep_alive`]; if other stores share the log, they know of it before this returns.
    pub async fn lease_renew(&self, id: LeaseId) -> Result<i64> {
        match self.shared().latest.is_shared() {
            true => self.ask(0, |reply| Command::Renew { id, reply }).await,
            false => self.lease_keep_alive(id),
        }
    }

    /// What is left of a lease, with its keys if asked for.
    pub fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseTtl> {
        let lessor = self.shared().lessor.lock();
        lessor.time_to_live(id, keys, Instant::now()).ok_or(Error::LeaseNotFound)
    }

    /// All leases, the one that ends first in front.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.shared().lessor.lock().list()
    }

    /// Identity, revisions and size.
    pub async fn status(&self) -> Result<Status> {
        let size = self.shared().read_log(|reader| reader.size()).await?;
        let index = self.shared().index.read();
        Ok(Status {
            cluster_id: self.shared().cluster_id,
            member_id: self.shared().member_id,
            revision: index.revision(),
            compact_revision: index.compacted(),
            size: size.allocated,
            size_in_use: size.in_use,
            no_space: self.no_space(),
        })
    }

    /// Serves what is queued, writes everything back and ends the writer thread.
    /// Other handles get [`Error::Stopped`] from then on; watchers end with it too.
    pub async fn close(&self) -> Result<()> {
        self.shared().inbox.close();
        let Some(thread) = self.owner.thread.lock().take() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || thread.join());
        match joined.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(Error::Write("the writer thread panicked".into())),
        }
    }

    async fn ask<T>(&self, weight: usize, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.shared().inbox.push(command(reply), weight).await?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    pub(crate) fn ids(&self) -> (u64, u64) {
        (self.shared().cluster_id, self.shared().member_id)
    }
}

/// Everything that memory holds of a log.
pub(crate) fn load(log: &mut dyn Log) -> Result<(Index, Lessor, Loaded)> {
    let mut index = Index::new();
    let mut attached = Vec::new();
    let loaded = log.load(&mut |record| {
        index.apply(&record);
        if record.lease != 0 {
            attached.push(record.key);
        }
    })?;
    index.set_compacted(loaded.compacted);
    let mut lessor = Lessor::default();
    let (now, now_unix_ms) = (Instant::now(), unix_now_ms());
    loaded.leases.iter().for_each(|row| lessor.load(row, now, now_unix_ms, loaded.clean));
    for key in attached {
        if let Some((_, entry)) = index.get(&key) {
            lessor.attach(&key, entry.lease());
        }
    }
    Ok((index, lessor, loaded))
}

/// Beside the file, where there is space for it; without a file the system's place.
fn scratch(path: Option<&Path>) -> PathBuf {
    match path.and_then(Path::parent) {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir(),
    }
}

fn mismatch(response: &OpResponse) -> Error {
    Error::Write(format!("answer of another kind: {response:?}"))
}

/// A number nobody can foresee; the standard hasher is seeded by the system.
pub(crate) fn random_id() -> u64 {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    RandomState::new().hash_one(COUNTER.fetch_add(1, Ordering::Relaxed)).max(1)
}
