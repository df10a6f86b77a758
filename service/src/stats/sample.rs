//! Taking a sample. What it costs grows with the paths, not with the chunks, and none of it waits for the writer.

use std::collections::{BTreeMap, HashMap, HashSet};

use larder_protocol::api::CacheName;

use super::schedule::SHORTEST;
use crate::{
    Service,
    caches::Cache,
    metadata::{Holdings, MetadataError, RepositoryKey, Sample, Stored, Traffic},
    retention,
};

/// How many repositories have samples of their own: those that brought most.
const REPOSITORIES: usize = 1000;

/// By cache, then by repository.
type Samples = BTreeMap<(String, String), Sample>;

/// Looks at what is there and writes it, with what was counted since the last time. Returns the sample of the whole
/// store.
///
/// # Errors
/// When the database fails. What was counted is not lost by that.
pub async fn take_sample(service: &Service) -> Result<Sample, MetadataError> {
    service.retention.reads.flush(service).await?;
    let (counted, so_far) = service.stats.traffic.since_sampled();
    let brought = service.stats.traffic.take_brought();
    match write(service, &counted, &brought).await {
        Ok(samples) => {
            service.stats.traffic.were_sampled(so_far);
            let whole = samples.iter().find(|sample| sample.cache.is_empty()).cloned().unwrap_or_default();
            service.stats.set_newest(samples);
            Ok(whole)
        }
        Err(error) => {
            for ((cache, by), traffic) in brought {
                service.stats.traffic.add_brought(&cache, by, traffic);
            }
            Err(error)
        }
    }
}

async fn write(
    service: &Service,
    counted: &HashMap<String, Traffic>,
    brought: &HashMap<super::traffic::Bringer, Traffic>,
) -> Result<Vec<Sample>, MetadataError> {
    let metadata = &service.metadata;
    let names = metadata.repository_names().await?;
    let called = |by: Option<&RepositoryKey>| match by {
        Some(key) => names.get(key).cloned().unwrap_or_else(|| key.repository_id.clone()),
        None => "-".to_owned(),
    };
    let mut samples = Samples::new();
    let stored = metadata.stored().await?;
    hold_paths(service, &mut samples, &called).await?;
    let open = metadata.open_pushes().await?;
    for (cache, count) in open {
        of(&mut samples, label(&cache), "").held.leases += count;
    }
    for cache in service.caches.iter() {
        hold_roots(service, &mut samples, cache, &called).await?;
        if alone(service, cache) {
            let stored = stored.get(&cache.namespace()).copied().unwrap_or_default();
            hold_chunks(&mut of(&mut samples, cache.name().to_string(), "").held, stored, stored.chunk_bytes);
        }
    }
    for (cache, traffic) in counted {
        if *traffic != Traffic::default() || !cache.ends_with('~') {
            of(&mut samples, cache.clone(), "").traffic = *traffic;
        }
    }
    for ((cache, by), traffic) in brought {
        of(&mut samples, cache.to_string(), &called(by.as_ref())).traffic += *traffic;
    }
    let mut whole = whole(&samples);
    let (objects, object_bytes) = metadata.stored_objects().await?;
    let total = stored.values().fold(Stored::default(), |total, one| Stored {
        nars: total.nars + one.nars,
        packed_bytes: total.packed_bytes + one.packed_bytes,
        chunks: total.chunks + one.chunks,
        chunk_bytes: total.chunk_bytes + one.chunk_bytes,
    });
    hold_chunks(&mut whole.held, total, object_bytes);
    whole.held.objects = Some(objects);
    whole.held.nars = total.nars;
    let now = service.clock.now();
    let taken_at = now - now.rem_euclid(SHORTEST);
    let mut samples: Vec<Sample> = std::iter::once(whole).chain(largest(samples)).collect();
    samples.iter_mut().for_each(|sample| (sample.taken_at, sample.span) = (taken_at, SHORTEST));
    metadata.write_samples(&samples).await?;
    Ok(samples)
}

fn of<'a>(samples: &'a mut Samples, cache: String, repository: &str) -> &'a mut Sample {
    samples.entry((cache, repository.to_owned())).or_insert_with_key(|(cache, repository)| Sample {
        cache: cache.clone(),
        repository: repository.clone(),
        ..Sample::default()
    })
}

/// Pull requests come and go: their caches are one.
fn label(cache: &str) -> String {
    match cache.split_once('~') {
        Some((parent, _)) => format!("{parent}~"),
        None => cache.to_owned(),
    }
}

/// Whether no other cache has chunks in common with it.
fn alone(service: &Service, cache: &Cache) -> bool {
    service.caches.iter().filter(|other| other.namespace() == cache.namespace()).count() == 1
}

fn hold_chunks(held: &mut Holdings, stored: Stored, stored_bytes: u64) {
    held.chunks = Some(stored.chunks);
    held.stored_bytes = Some(stored_bytes);
    // Several paths with one NAR, several NARs with one chunk. What waits to be swept counts against it.
    let packed = held.packed_bytes.max(stored.packed_bytes);
    held.shared_bytes = Some(packed.saturating_sub(stored.chunk_bytes));
}

async fn hold_paths(
    service: &Service,
    samples: &mut Samples,
    called: &impl Fn(Option<&RepositoryKey>) -> String,
) -> Result<(), MetadataError> {
    for one in service.metadata.brought().await? {
        let cache = label(&one.cache);
        for repository in [String::new(), called(one.by.as_ref())] {
            let held = &mut of(samples, cache.clone(), &repository).held;
            held.paths += one.paths;
            held.raw_bytes += one.raw_bytes;
            held.packed_bytes += one.packed_bytes;
            if !repository.is_empty() {
                held.nars += one.nars;
            }
        }
    }
    for (cache, nars) in service.metadata.nars_of_caches().await? {
        of(samples, label(&cache), "").held.nars += nars;
    }
    Ok(())
}

async fn hold_roots(
    service: &Service,
    samples: &mut Samples,
    cache: &Cache,
    called: &impl Fn(Option<&RepositoryKey>) -> String,
) -> Result<(), MetadataError> {
    let (metadata, rules, now) = (&service.metadata, &cache.config.retention, service.clock.now());
    let name: &CacheName = cache.name();
    let kept = retention::kept(metadata, name, rules, now).await?;
    let pins = metadata.pins(name, now).await?;
    let mut of_run = HashMap::new();
    for run in &kept {
        let by =
            RepositoryKey { issuer: run.run.issuer.clone(), repository_id: run.run.repository_id.clone() };
        let repository = called(Some(&by));
        of(samples, name.to_string(), &repository).held.runs += 1;
        of_run.insert(run.id, repository);
    }
    let mut closures: HashMap<&str, HashSet<_>> = HashMap::new();
    closures.entry("").or_default().extend(pins.iter().map(|pin| pin.path.hash()));
    for (run, hash) in metadata.roots_of_runs(name).await? {
        if let Some(repository) = of_run.get(&run) {
            closures.entry(repository).or_default().insert(hash);
            closures.entry("").or_default().insert(hash);
        }
    }
    for (repository, closures) in closures {
        of(samples, name.to_string(), repository).held.closures = closures.len() as u64;
    }
    let held = &mut of(samples, name.to_string(), "").held;
    held.runs = kept.len() as u64;
    held.pins = pins.len() as u64;
    (held.recent_pushes, held.recent_reads) =
        metadata.recent(name, retention::recent_since(rules, now)).await?;
    Ok(())
}

/// The sum over all caches.
fn whole(samples: &Samples) -> Sample {
    let mut whole = Sample::default();
    for one in samples.values().filter(|sample| sample.repository.is_empty()) {
        let (sum, held) = (&mut whole.held, &one.held);
        sum.paths += held.paths;
        sum.closures += held.closures;
        sum.raw_bytes += held.raw_bytes;
        sum.packed_bytes += held.packed_bytes;
        sum.runs += held.runs;
        sum.pins += held.pins;
        sum.leases += held.leases;
        sum.recent_pushes += held.recent_pushes;
        sum.recent_reads += held.recent_reads;
        whole.traffic += one.traffic;
    }
    whole
}

/// All caches, and of the repositories those that brought most.
fn largest(samples: Samples) -> Vec<Sample> {
    let (mut caches, mut repositories): (Vec<_>, Vec<_>) =
        samples.into_values().partition(|sample| sample.repository.is_empty());
    repositories.sort_by_key(|sample| std::cmp::Reverse(sample.held.packed_bytes));
    repositories.truncate(REPOSITORIES);
    caches.append(&mut repositories);
    caches
}
