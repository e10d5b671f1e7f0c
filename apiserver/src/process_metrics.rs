//! The process itself, under the names every Prometheus client library uses.

use std::fmt::Write as _;

/// Hundredths of seconds: the unit of processor time in `/proc`, whatever the kernel's own.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: f64 = 4096.0;

/// Text of the families; what cannot be read is left out.
pub fn text() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let descriptors = std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
    families(&read("/proc/self/stat"), &read("/proc/stat"), &read("/proc/self/limits"), descriptors)
}

fn families(stat: &str, machine: &str, limits: &str, descriptors: Option<usize>) -> String {
    // The name in parentheses may hold anything; the fields are counted behind it.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 4).copied();
    let boot = machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let open_max = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<f64>().ok());
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
    };
    let processor = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    let started = boot.zip(field(22)).map(|(boot, ticks)| boot + ticks / TICKS_PER_SECOND);
    family("process_cpu_seconds_total", "counter", "Processor time spent.", processor);
    family("process_resident_memory_bytes", "gauge", "Memory in use.", field(24).map(|pages| pages * PAGE_BYTES));
    family("process_virtual_memory_bytes", "gauge", "Address space in use.", field(23));
    family("process_start_time_seconds", "gauge", "Start, in seconds since the epoch.", started);
    family("process_open_fds", "gauge", "Open file descriptors.", descriptors.map(|count| count as f64));
    family("process_max_fds", "gauge", "Most file descriptors.", open_max);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1000 8192 3 0";
        let text = families(
            stat,
            "cpu 1\nbtime 100\n",
            "Max open files            1024                 4096       files\n",
            Some(5),
        );
        for line in [
            "process_cpu_seconds_total 2\n",
            "process_resident_memory_bytes 12288\n",
            "process_virtual_memory_bytes 8192\n",
            "process_start_time_seconds 110\n",
            "process_open_fds 5\n",
            "process_max_fds 1024\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(families("", "", "", None).is_empty());
    }
}
