//! What callers ask of the writer thread.

use tokio::sync::oneshot;

use crate::error::Result;
use crate::lessor::LeaseId;
use crate::revision::Revision;
use crate::txn::{RawTxn, Txn};

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// One request to the writer.
pub(crate) enum Command {
    /// A transaction that may write.
    Txn(Txn, Reply<RawTxn>),
    /// Grants a lease; answers the TTL given.
    Grant { id: LeaseId, ttl: i64, reply: Reply<i64> },
    /// Starts the time of a lease anew, durably; answers its TTL.
    Renew { id: LeaseId, reply: Reply<i64> },
    /// Ends a lease and deletes its keys; answers the store's revision.
    Revoke { id: LeaseId, reply: Reply<Revision> },
    /// Forgets history below a revision; `physical` waits until it is gone from the log.
    Compact { revision: Revision, physical: bool, reply: Reply<()> },
    /// Raises or disarms the NOSPACE alarm.
    NoSpace { raise: bool, reply: Reply<()> },
    /// Gives all free space back.
    Defragment { reply: Reply<()> },
}
