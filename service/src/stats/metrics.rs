//! The numbers for Prometheus, on an address of their own: they name private caches and repositories, so that nobody
//! who only reads or pushes may see them.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};
use tokio::net::TcpListener;

use crate::{
    Service,
    error::ApiError,
    metadata::{Sample, Traffic},
    verification::Outcome,
};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is answered on the address for metrics: `/metrics`, and nothing else.
pub fn router(service: Arc<Service>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(service)
}

/// Answers on a listener until it is dropped.
pub async fn serve(service: Arc<Service>, listener: TcpListener) {
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "telling numbers at /metrics"),
        Err(error) => tracing::warn!(%error, "the address for metrics is not known"),
    }
    // It accepts again after every error, and never returns.
    let _ = axum::serve(listener, router(service)).await;
}

async fn metrics(State(service): State<Arc<Service>>) -> Result<impl IntoResponse, ApiError> {
    let mut registry = Registry::with_prefix("larder");
    let verified = Verified {
        waiting: service.metadata.count_waiting().await?,
        last_scrub: service.metadata.last_scrub().await?,
    };
    registry.register_collector(Box::new(Collected(service, verified)));
    let mut text = String::new();
    text::encode(&mut text, &registry).map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

/// What the database knows of verifications, so that every replica tells the same.
struct Verified {
    waiting: u64,
    last_scrub: Option<i64>,
}

struct Collected(Arc<Service>, Verified);

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collected")
    }
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(service, verified) = self;
        counters(service, &mut encoder)?;
        traffic(service, &mut encoder)?;
        verification(service, verified, &mut encoder)?;
        held(service, &mut encoder)?;
        latencies(service, &mut encoder)?;
        hot_tier(service, &mut encoder)?;
        let up =
            encoder.encode_descriptor("build", "The version of larderd that runs", None, MetricType::Info);
        up?.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

fn counters(service: &Service, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let of = &service.stats.counters;
    let mut plain = |name: &str, help: &str, unit: Option<&Unit>, count: u64| {
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&count, None)
    };
    plain("pushes_opened", "Pushes that were opened", None, of.pushes_opened.so_far())?;
    plain("pushes_committed", "Pushes that were committed", None, of.pushes_committed.so_far())?;
    plain("paths_published", "Paths that pushes published", None, of.paths_published.so_far())?;
    plain(
        "uploaded",
        "Frames that were uploaded and stored",
        Some(&Unit::Bytes),
        of.bytes_uploaded.so_far(),
    )?;
    plain("swept_paths", "Paths that sweeps took", None, of.swept_paths.so_far())?;
    plain("swept_chunks", "Chunks that sweeps took", None, of.swept_chunks.so_far())?;
    plain("swept", "Files of objects that sweeps deleted", Some(&Unit::Bytes), of.swept_bytes.so_far())?;
    let mut by = |name: &str, help: &str, label: &'static str, counts: &[(&'static str, u64)]| {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in counts {
            metric.encode_family(&[(label, *value)])?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        Ok::<_, fmt::Error>(())
    };
    let sweeps = [("done", of.sweeps.so_far()), ("failed", of.sweeps_failed.so_far())];
    by("sweeps", "Sweeps, by how they ended", "outcome", &sweeps)?;
    let jobs = [("done", of.jobs_done.so_far()), ("failed", of.jobs_failed.so_far())];
    by("jobs", "Attempts at jobs, by how they ended", "outcome", &jobs)?;
    let deliveries = [
        ("stored", of.deliveries_stored.so_far()),
        ("repeated", of.deliveries_repeated.so_far()),
        ("refused", of.deliveries_refused.so_far()),
    ];
    by("deliveries", "Webhooks, by what became of them", "outcome", &deliveries)
}

fn verification(service: &Service, verified: &Verified, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let of = &service.verification.counts;
    let so_far = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut plain = |name: &str, help: &str, unit: Option<&Unit>, counter: &AtomicU64| {
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&so_far(counter), None)
    };
    plain("verified_frames", "Frames that were verified again", None, &of.frames)?;
    plain("verified_nars", "NARs that were verified again", None, &of.nars)?;
    plain("verified_paths", "Paths that were verified again", None, &of.paths)?;
    plain("verified", "What was read to verify it again", Some(&Unit::Bytes), &of.bytes)?;
    plain("withdrawn_paths", "Paths that verifications withdrew", None, &of.withdrawn)?;
    plain("scrubs", "Rounds of the scrub that are over", None, &of.rounds)?;
    let help = "What verifications found, by what became of it";
    let mut findings = encoder.encode_descriptor("verify_findings", help, None, MetricType::Counter)?;
    for (outcome, counter) in Outcome::ALL.iter().zip(&of.findings) {
        let labels = [("outcome", outcome.as_str())];
        findings.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&so_far(counter), None)?;
    }
    let help = "Paths that were withdrawn and have not come again";
    let mut waiting = encoder.encode_descriptor("waiting_paths", help, None, MetricType::Gauge)?;
    encode_gauge(&mut waiting, &[], verified.waiting)?;
    if let Some(at) = verified.last_scrub {
        let help = "When a round of the scrub was over last";
        let unit = Some(&Unit::Seconds);
        encoder.encode_descriptor("scrub_timestamp", help, unit, MetricType::Gauge)?.encode_gauge(&at)?;
    }
    Ok(())
}

fn traffic(service: &Service, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let so_far = service.stats.traffic.so_far();
    let mut narinfos = encoder.encode_descriptor(
        "narinfo_reads",
        "Narinfos that were asked for, by whether the cache has the path",
        None,
        MetricType::Counter,
    )?;
    for (cache, traffic) in &so_far {
        for (result, count) in [("hit", traffic.hits), ("miss", traffic.misses)] {
            let labels = [("cache", *cache), ("result", result)];
            narinfos.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }
    let mut each = |name: &str, help: &str, unit: Option<&Unit>, of: fn(&Traffic) -> u64| {
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (cache, traffic) in &so_far {
            let labels = [("cache", *cache)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&of(traffic), None)?;
        }
        Ok::<_, fmt::Error>(())
    };
    each("nar_reads", "NARs that were sent, whole or in part", None, |traffic| traffic.reads)?;
    each("served", "Narinfos and NARs that were sent", Some(&Unit::Bytes), |traffic| traffic.bytes_served)
}

fn hot_tier(service: &Service, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(tier) = service.storage.hot_tier() else { return Ok(()) };
    let help = "Reads of objects, by whether the hot tier had what was wanted";
    let mut reads = encoder.encode_descriptor("hot_tier_reads", help, None, MetricType::Counter)?;
    for (result, count) in tier.reads() {
        reads.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    let help = "What the hot tier has on its disk";
    let mut held = encoder.encode_descriptor("hot_tier", help, Some(&Unit::Bytes), MetricType::Gauge)?;
    encode_gauge(&mut held, &[], tier.held())
}

/// What a sample tells, under which name, of which kind.
type Held = (&'static str, &'static str, Option<Unit>, fn(&Sample) -> Option<u64>);

fn held(service: &Service, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let newest = service.stats.newest();
    let gauges: [Held; 9] = [
        ("paths", "Paths", None, |sample| Some(sample.held.paths)),
        ("closures", "Closures that runs and pins keep", None, |sample| Some(sample.held.closures)),
        ("nars", "NARs", None, |sample| Some(sample.held.nars)),
        ("raw", "NARs of all paths", Some(Unit::Bytes), |sample| Some(sample.held.raw_bytes)),
        ("packed", "NARs of all paths, compressed, if nothing were shared", Some(Unit::Bytes), |sample| {
            Some(sample.held.packed_bytes)
        }),
        ("chunks", "Chunks", None, |sample| sample.held.chunks),
        ("objects", "Objects", None, |sample| sample.held.objects),
        ("stored", "What is really stored", Some(Unit::Bytes), |sample| sample.held.stored_bytes),
        ("shared", "What need not be stored since it is shared", Some(Unit::Bytes), |sample| {
            sample.held.shared_bytes
        }),
    ];
    for (name, help, unit, of) in &gauges {
        for (prefix, labels) in
            [("store", Labels::None), ("cache", Labels::Cache), ("repository", Labels::Both)]
        {
            let chosen: Vec<_> = newest
                .iter()
                .filter(|sample| labels.fit(sample))
                .filter_map(|sample| Some((sample, of(sample)?)))
                .collect();
            if chosen.is_empty() {
                continue;
            }
            let name = format!("{prefix}_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, unit.as_ref(), MetricType::Gauge)?;
            for (sample, value) in chosen {
                encode_gauge(&mut metric, &labels.of(sample), value)?;
            }
        }
    }
    budgets(service, encoder)?;
    let mut roots =
        encoder.encode_descriptor("cache_roots", "What keeps closures, by kind", None, MetricType::Gauge)?;
    for sample in newest.iter().filter(|sample| Labels::Cache.fit(sample)) {
        let held = &sample.held;
        for (kind, count) in [
            ("run", held.runs),
            ("pin", held.pins),
            ("lease", held.leases),
            ("push", held.recent_pushes),
            ("read", held.recent_reads),
        ] {
            encode_gauge(&mut roots, &[("cache", sample.cache.as_str()), ("kind", kind)], count)?;
        }
    }
    if let Some(taken_at) = newest.first().map(|sample| sample.taken_at) {
        let help = "When the numbers of the store, its caches and repositories were taken";
        let mut metric =
            encoder.encode_descriptor("sample_timestamp", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        metric.encode_gauge(&taken_at)?;
    }
    Ok(())
}

/// How much there may be, where that is configured.
fn budgets(service: &Service, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "How much may be held (max_size)";
    if let Some(size) = service.config.retention.max_size {
        let mut metric =
            encoder.encode_descriptor("store_budget", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        encode_gauge(&mut metric, &[], size.get())?;
    }
    let caches = service.caches.iter().filter_map(|cache| Some((cache.name(), cache.config.max_size?)));
    let caches: Vec<_> = caches.collect();
    if !caches.is_empty() {
        let mut metric =
            encoder.encode_descriptor("cache_budget", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (name, size) in caches {
            encode_gauge(&mut metric, &[("cache", name.as_str())], size.get())?;
        }
    }
    Ok(())
}

fn encode_gauge(
    metric: &mut prometheus_client::encoding::MetricEncoder<'_>,
    labels: &[(&str, &str)],
    value: u64,
) -> fmt::Result {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    // An empty set would be written as {}, which not everybody reads.
    if labels.is_empty() {
        metric.encode_gauge(&value)
    } else {
        metric.encode_family(&labels)?.encode_gauge(&value)
    }
}

/// By what samples are told apart: the whole store, caches, what repositories brought to them.
enum Labels {
    None,
    Cache,
    Both,
}

impl Labels {
    fn fit(&self, sample: &Sample) -> bool {
        match self {
            Self::None => sample.cache.is_empty(),
            Self::Cache => !sample.cache.is_empty() && sample.repository.is_empty(),
            Self::Both => !sample.repository.is_empty(),
        }
    }

    fn of<'a>(&self, sample: &'a Sample) -> Vec<(&'static str, &'a str)> {
        let (cache, repository) = (("cache", &*sample.cache), ("repository", &*sample.repository));
        match self {
            Self::None => Vec::new(),
            Self::Cache => vec![cache],
            Self::Both => vec![cache, repository],
        }
    }
}

fn latencies(service: &Service, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(
        "http_request_duration",
        "How long answers took to begin, by route and kind of status",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    service.stats.latencies.each(|route, status, histogram| {
        let (sum, count, buckets) = histogram.read();
        let none = None::<&HashMap<usize, Exemplar<NoLabelSet, f64>>>;
        metric
            .encode_family(&[("route", route), ("status", status)])?
            .encode_histogram(sum, count, &buckets, none)
    })
}
