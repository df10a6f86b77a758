//! What lies in a service's storage, seen past the service: in a folder, or in a bucket on whatever S3 server.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::TryStreamExt as _;
use larder_service::{
    config::{BucketConfig, StorageConfig},
    storage,
};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, path::Path as Key};

/// The objects of one service, by their keys.
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Where they are files.
    folder: Option<PathBuf>,
}

impl Objects {
    /// Of a service with its data in this directory.
    pub fn of(directory: &Path) -> Self {
        match super::storage(directory) {
            StorageConfig::Bucket(bucket) => Self::in_bucket(&bucket),
            StorageConfig::Folder => {
                let folder = directory.join("objects");
                std::fs::create_dir_all(&folder).unwrap();
                let store = LocalFileSystem::new_with_prefix(&folder).unwrap();
                Self { store: Arc::new(store), folder: Some(folder) }
            }
        }
    }

    /// Of a service that keeps them in this bucket.
    pub fn in_bucket(bucket: &BucketConfig) -> Self {
        Self { store: storage::connect(bucket).unwrap(), folder: None }
    }

    /// All of them, and how many bytes each has. With the files of those that are being written, and the notes of uploads.
    pub async fn sizes(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        match &self.folder {
            Some(folder) => walk(folder, "", &mut found),
            None => found.extend(self.list("").await.into_iter().map(|of| (of.location.into(), of.size))),
        }
        found
    }

    /// Whether one is just being written, where they are files.
    pub fn have_part_of_a_file(&self) -> bool {
        let mut found = BTreeMap::new();
        walk(self.folder.as_deref().unwrap(), "", &mut found);
        found.keys().any(|key| key.contains('#'))
    }

    /// The keys of those in a folder, the oldest first.
    pub async fn by_age(&self, folder: &str) -> Vec<String> {
        let mut found = self.list(folder).await;
        found.sort_by_key(|object| object.last_modified);
        found.into_iter().map(|object| object.location.into()).collect()
    }

    async fn list(&self, folder: &str) -> Vec<ObjectMeta> {
        self.store.list(Some(&Key::from(folder))).try_collect().await.unwrap()
    }

    /// One, whole.
    pub async fn read(&self, key: &str) -> Vec<u8> {
        self.store.get(&Key::from(key)).await.unwrap().bytes().await.unwrap().into()
    }

    /// Puts one there, or another in its place.
    pub async fn write(&self, key: &str, bytes: Vec<u8>) {
        self.store.put(&Key::from(key), bytes.into()).await.unwrap();
    }

    /// Damages one.
    pub async fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.read(key).await;
        change(&mut bytes);
        self.write(key, bytes).await;
    }

    /// Takes one away.
    pub async fn delete(&self, key: &str) {
        self.store.delete(&Key::from(key)).await.unwrap();
    }
}

fn walk(folder: &Path, key: &str, found: &mut BTreeMap<String, u64>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let key = format!("{key}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            walk(&entry.path(), &format!("{key}/"), found);
        } else if let Ok(file) = entry.metadata() {
            found.insert(key, file.len());
        }
    }
}
