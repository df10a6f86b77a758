//! How long answers took to begin, by route and kind of status.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use tokio::time::Instant;

/// The buckets' upper bounds, in microseconds; beyond the last there is one more.
const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 30_000_000,
];
/// What is of no route.
const NO_ROUTE: &str = "none";
/// 1xx to 5xx.
const CLASSES: usize = 5;

/// One histogram.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    /// The sum in seconds, the count, and each bucket's upper bound in seconds with how many lie in it alone.
    #[expect(clippy::cast_precision_loss, reason = "a sum of microseconds is exact for 285 years")]
    pub(super) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.buckets.iter().map(|count| count.load(Relaxed))).collect();
        (self.micros.load(Relaxed) as f64 / 1e6, buckets.iter().map(|(_, count)| count).sum(), buckets)
    }
}

type OfRoute = Arc<[Histogram; CLASSES]>;

/// How long answers took to begin. There are as many routes as the router has: what strangers ask for makes none.
#[derive(Debug, Default)]
pub struct Latencies(RwLock<HashMap<String, OfRoute>>);

impl Latencies {
    fn observe(&self, route: &str, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        if let Some(histograms) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(route) {
            histograms[class].observe(took);
            return;
        }
        let mut routes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        routes.entry(route.to_owned()).or_default()[class].observe(took);
    }

    /// Route, kind of status and histogram of all that was answered.
    pub(super) fn each(
        &self,
        mut see: impl FnMut(&str, &'static str, &Histogram) -> std::fmt::Result,
    ) -> std::fmt::Result {
        let routes = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut routes: Vec<_> = routes.into_iter().collect();
        routes.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (route, histograms) in &routes {
            for (class, histogram) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(histograms.iter()) {
                if histogram.read().1 > 0 {
                    see(route, class, histogram)?;
                }
            }
        }
        Ok(())
    }
}

/// Measures how long the answer to a request takes to begin.
pub async fn measure(State(latencies): State<Arc<Latencies>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    latencies.observe(route, response.status().as_u16(), began.elapsed());
    response
}
