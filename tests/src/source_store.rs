//! A store of Nix's to push from, with paths made by hand.

use std::{
    fs,
    path::{Path, PathBuf},
};

use larder_protocol::{StorePath, nar};

use crate::{
    larder::Push,
    nix::{Nix, Reader, ScratchStore},
    package::{Node, Package},
};

/// A store with some paths, of which the last is the root.
pub struct SourceStore {
    store: ScratchStore,
    packages: Vec<Package>,
}

/// A path and its files.
pub fn tree(name: &str, node: Node) -> (Package, Node) {
    (Package::new(name, &node), node)
}

/// As commands take it.
pub fn path_of(path: &StorePath) -> PathBuf {
    path.absolute().into()
}

impl SourceStore {
    /// A store with these.
    pub async fn new(trees: impl IntoIterator<Item = (Package, Node)>) -> Self {
        let store = ScratchStore::new(Nix::Installed);
        fs::create_dir_all(store.root().join("nix/store")).unwrap();
        let mut packages = Vec::new();
        for (package, node) in trees {
            node.create(&store.real_path(&path_of(&package.info.path)));
            packages.push(package);
        }
        store.register(packages.iter().map(|package| &package.info)).await;
        Self { store, packages }
    }

    /// The last path.
    pub fn root(&self) -> &Package {
        self.packages.last().expect("a store without paths")
    }

    /// Where a path's files are.
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.store.real_path(&path_of(path))
    }

    /// The store's root.
    pub fn dir(&self) -> &Path {
        self.store.root()
    }

    /// Pushes the root and all that it needs.
    pub fn push(&self, push: Push) -> Push {
        push.from_store(self.dir()).args([self.root().info.path.absolute()])
    }

    /// An empty store of this Nix gets all of it, bit by bit.
    pub async fn assert_read_back(&self, reader: &Reader, nix: Nix) {
        let store = ScratchStore::new(nix);
        store.copy_from(reader, &[path_of(&self.root().info.path)]).await.expect_success();
        store.verify().await;
        for package in &self.packages {
            let mut nar = Vec::with_capacity(package.nar.len());
            let add = |bytes: &[u8]| {
                nar.extend_from_slice(bytes);
                Ok(())
            };
            nar::dump(&store.real_path(&path_of(&package.info.path)), add).unwrap();
            assert!(nar == package.nar, "{} came back otherwise", package.info.path.absolute());
        }
    }
}
