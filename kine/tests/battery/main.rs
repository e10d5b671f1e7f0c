//! One battery for every implementation of the store, with etcd itself as the oracle.
//!
//! Goal: whatever holds of etcd's revisions, transactions, leases, compaction and watches holds
//! of ours, in process and through gRPC. Method: each case is an async function over `Target`;
//! it runs on memory, on SQLite, on both through gRPC, on PostgreSQL and MariaDB, and on a real etcd,
//! all started for it.

mod alarm;
mod cases;
mod concurrent;
mod etcd;
mod etcdctl;
mod gate;
mod grpc;
mod linear;
mod local;
mod random;
mod servers;
mod shared;
mod snapshot;
mod target;
mod tls;
mod transfer;
mod watch_cases;
mod wire;

macro_rules! battery {
    ($($module:ident :: $case:ident,)*) => {
        mod memory {
            $(#[tokio::test] async fn $case() { crate::$module::$case(&crate::local::memory().await).await })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $case() { crate::$module::$case(&crate::local::sqlite().await).await })*
        }
        mod memory_over_grpc {
            $(#[tokio::test] async fn $case() { crate::$module::$case(&crate::grpc::memory().await).await })*
        }
        mod sqlite_over_grpc {
            $(#[tokio::test] async fn $case() { crate::$module::$case(&crate::grpc::sqlite().await).await })*
        }
        mod postgres {
            $(#[tokio::test] async fn $case() { crate::$module::$case(&crate::local::postgres().await).await })*
        }
        mod mariadb {
            $(#[tokio::test] async fn $case() { crate::$module::$case(&crate::local::mariadb().await).await })*
        }
        mod real_etcd {
            $(#[tokio::test] async fn $case() { crate::$module::$case(&crate::grpc::real_etcd().await).await })*
        }
    };
}

battery! {
    cases::an_empty_store_is_at_revision_one,
    cases::puts_count_revisions_and_versions,
    cases::a_key_created_again_begins_a_new_generation,
    cases::ranges_cover_what_they_say,
    cases::limit_cuts_and_count_does_not,
    cases::ranges_sort_by_every_target,
    cases::ranges_filter_by_revision_but_count_everything,
    cases::the_past_can_be_read_at_every_revision,
    cases::puts_can_keep_value_or_lease,
    cases::deletions_answer_what_they_deleted,
    cases::compares_look_at_every_target,
    cases::compares_over_a_range_hold_for_every_key,
    cases::operations_of_a_transaction_share_a_revision_and_see_each_other,
    cases::nested_transactions_are_decided_before_anything_runs,
    cases::an_invalid_transaction_changes_nothing,
    cases::compaction_forgets_the_past_and_keeps_the_present,
    cases::leases_hold_their_keys_until_revoked,
    cases::a_lease_that_runs_out_takes_its_keys_along,
    cases::a_lease_kept_alive_stays,
    cases::concurrent_increments_lose_none,
    watch_cases::a_watch_sees_what_happens_from_now_on,
    watch_cases::a_watch_replays_the_past_in_order,
    watch_cases::a_watch_begins_in_the_past_and_goes_on_without_a_gap,
    watch_cases::a_watch_of_the_future_waits_for_its_revision,
    watch_cases::watches_show_previous_values_when_asked,
    watch_cases::watches_filter_puts_or_deletions,
    watch_cases::a_watch_of_the_compacted_past_is_told_where_history_begins,
    watch_cases::a_deletion_at_the_compact_revision_is_still_seen,
    random::a_random_history_agrees_with_the_model,
    concurrent::concurrent_histories_are_linearizable_and_watched_whole,
}
