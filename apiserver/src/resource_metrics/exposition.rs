//! Reads `/metrics/resource` of a kubelet.

use std::{collections::BTreeMap, time::SystemTime};

use super::ContainerKey;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    pub at_seconds: f64,
    pub cpu_seconds: f64,
    pub memory_bytes: u64,
}

/// One answer of a kubelet.
#[derive(Debug, Default)]
pub struct Scrape {
    pub node: Option<Point>,
    pub containers: Vec<(ContainerKey, Point)>,
}

impl Scrape {
    /// Lines that are not understood are left out.
    pub fn parse(text: &str) -> Scrape {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut node: Option<Point> = None;
        let mut containers: BTreeMap<ContainerKey, (Option<Point>, Option<u64>)> = BTreeMap::new();
        for sample in text.lines().filter_map(sample) {
            let at_seconds = sample.at_ms.map_or(now, |at| at as f64 / 1000.0);
            match sample.name {
                "node_cpu_usage_seconds_total" => {
                    let point = node.get_or_insert_default();
                    (point.cpu_seconds, point.at_seconds) = (sample.value, at_seconds);
                }
                "node_memory_working_set_bytes" => node.get_or_insert_default().memory_bytes = sample.value as u64,
                "container_cpu_usage_seconds_total" => {
                    if let Some(key) = sample.key() {
                        let point = Point { at_seconds, cpu_seconds: sample.value, memory_bytes: 0 };
                        containers.entry(key).or_default().0 = Some(point);
                    }
                }
                "container_memory_working_set_bytes" => {
                    if let Some(key) = sample.key() {
                        containers.entry(key).or_default().1 = Some(sample.value as u64);
                    }
                }
                _ => {}
            }
        }
        let containers = containers
            .into_iter()
            .filter_map(|(key, (point, memory))| Some((key, Point { memory_bytes: memory?, ..point? })));
        Scrape { node: node.filter(|point| point.at_seconds > 0.0), containers: containers.collect() }
    }
}

struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
    at_ms: Option<i64>,
}

fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let (head, numbers) = match line.find('}') {
        Some(end) => (&line[..end], &line[end + 1..]),
        None => line.split_once(' ')?,
    };
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let mut numbers = numbers.split_whitespace();
    let value = numbers.next()?.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0)?;
    Some(Sample { name, labels, value, at_ms: numbers.next().and_then(|at| at.parse().ok()) })
}

impl Sample<'_> {
    /// Values are DNS labels, which need no escapes.
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.split(',').find_map(|label| {
            let (key, value) = label.split_once('=')?;
            (key.trim() == name).then(|| value.trim_matches('"'))
        })
    }

    fn key(&self) -> Option<ContainerKey> {
        let text = |name| self.label(name).map(str::to_owned);
        Some((text("namespace")?, text("pod")?, text("container")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_kubelet_are_joined() {
        let text = "# HELP x\n# TYPE x counter\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 5000\n\
            container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 7 5000\n\
            container_cpu_usage_seconds_total{container=\"lost\",namespace=\"n\",pod=\"p\"} 1 5000\n\
            node_cpu_usage_seconds_total 9.5 6000\nnode_memory_working_set_bytes 3e6 6000\nodd{ 1\nnode_cpu_usage_seconds_total NaN\n";
        let scrape = Scrape::parse(text);
        assert_eq!(scrape.node, Some(Point { at_seconds: 6.0, cpu_seconds: 9.5, memory_bytes: 3_000_000 }));
        let key = ("n".to_owned(), "p".to_owned(), "c".to_owned());
        assert_eq!(scrape.containers, [(key, Point { at_seconds: 5.0, cpu_seconds: 1.5, memory_bytes: 7 })]);
    }
}
