//! Every bound of the node agent in one place, with what happens when it is reached.

use std::time::Duration;

/// Largest message on the runtime socket; a longer answer fails the call.
pub const CRI_MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Deadline of runtime calls that only read or flip state.
pub const CRI_CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Deadline of starting a sandbox: network plugins may be slow.
pub const CRI_SANDBOX_TIMEOUT: Duration = Duration::from_secs(240);
/// A pull that takes longer fails and is tried again, keeping finished layers.
pub const IMAGE_PULL_TIMEOUT: Duration = Duration::from_secs(3600);
/// Pulls at the same time; further pods wait for their turn.
pub const IMAGE_PULLS_MAX: usize = 5;
/// Containers the runtime starts at the same time on behalf of all pods.
pub const POD_SYNCS_MAX: usize = 32;

/// First and longest wait between restarts of a crashing container.
pub const CRASH_BACKOFF_FIRST: Duration = Duration::from_secs(10);
pub const CRASH_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// First and longest wait between pulls of an image that fail.
pub const PULL_BACKOFF_FIRST: Duration = Duration::from_secs(10);
pub const PULL_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// First and longest wait between failing attempts to bring a pod up.
pub const SYNC_BACKOFF_FIRST: Duration = Duration::from_millis(250);
pub const SYNC_BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Longest termination message of a container and of all containers of a pod; the rest is cut.
pub const TERMINATION_MESSAGE_BYTES_MAX: usize = 4096;
pub const TERMINATION_LOG_LINES_MAX: usize = 80;
pub const TERMINATION_LOG_BYTES_MAX: usize = 2048;

/// Dead containers kept per container name, for `kubectl logs --previous`.
pub const DEAD_CONTAINERS_KEPT: usize = 1;

/// Safety net under the event stream.
pub const RELIST_PERIOD: Duration = Duration::from_secs(60);
/// When the last complete look is older, the node is not healthy.
pub const RELIST_AGE_MAX: Duration = Duration::from_secs(180);
/// Full status of this node at least this often.
pub const NODE_STATUS_PERIOD: Duration = Duration::from_secs(300);
/// How often node conditions and images are looked at.
pub const NODE_CHECK_PERIOD: Duration = Duration::from_secs(10);
/// The same while the node is not ready yet.
pub const NODE_CHECK_STARTING: Duration = Duration::from_millis(250);
/// A runtime that is silent for longer makes the node unready.
pub const RUNTIME_SILENCE_MAX: Duration = Duration::from_secs(30);
pub const LEASE_DURATION_SECONDS: i32 = 40;
pub const LEASE_RENEW_PERIOD: Duration = Duration::from_secs(10);
/// Images named in the node status.
pub const NODE_STATUS_IMAGES_MAX: usize = 50;

/// Container logs are rotated at this size and this many are kept.
pub const LOG_BYTES_MAX: u64 = 10 << 20;
pub const LOG_FILES_MAX: usize = 5;
pub const LOG_CHECK_PERIOD: Duration = Duration::from_secs(10);

/// Most bytes of an HTTP probe's or hook's answer that are read.
pub const PROBE_BODY_BYTES_MAX: usize = 10 << 10;
/// Pod status writes at the same time.
pub const STATUS_WRITES_MAX: usize = 8;
/// How long containers that were stopped may be shown as running before they are stopped once more.
pub const END_WAIT: Duration = Duration::from_secs(1);

/// Longest wait for a service account token, a secret or a config map.
pub const OBJECT_WAIT: Duration = Duration::from_secs(30);
/// How long containerd may take to open its socket.
pub const CONTAINERD_START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long containerd may take to end after SIGTERM before SIGKILL.
pub const CONTAINERD_STOP_TIMEOUT: Duration = Duration::from_secs(10);
pub const CONTAINERD_BACKOFF_FIRST: Duration = Duration::from_millis(500);
pub const CONTAINERD_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Archives imported at the same time.
pub const IMPORTS_MAX: usize = 2;
/// Largest config map or secret volume; the API has the same bound per object.
pub const VOLUME_PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// Files visited to tell what all volumes hold; a volume that needs more is not told of.
pub const VOLUME_ENTRIES_MAX: usize = 500_000;
/// What volumes hold is measured anew after this time, if somebody asks.
pub const VOLUME_USAGE_AGE: Duration = Duration::from_secs(60);
