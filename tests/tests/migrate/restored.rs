//! What is restored on a server.

use larder_tests::{
    bucket::Bucket, client::Client, package::Package, postgres::Postgres, test_servers::objects::Objects,
};

use crate::{Installation, github};

#[tokio::test(flavor = "multi_thread")]
async fn an_export_and_the_objects_alone_become_a_database_on_a_server() {
    let (github, postgres, bucket) = (github().await, Postgres::start().await, Bucket::start().await);
    let old = Installation::embedded(&github).await;
    let (anna, shown) = (old.token("anna", "team").await, Package::noise("shown", 400_000));
    let secret = Package::noise("secret", 300_000);
    old.job(&github).await.push(&[&shown]).await.unwrap();
    Client::with_token(&old.url(), "team", &anna).push(&[&secret]).await.unwrap();
    let file = old.dir.path().join("larder.export").display().to_string();
    old.run(&["export", &file]).await.expect_success();
    let (kept, restored) = (Objects::of(&old.data()), bucket.objects());
    for key in kept.sizes().await.keys() {
        restored.write(key, kept.read(key).await).await;
    }

    let imported = Installation::on_servers(&github, &old, &postgres.url(), &bucket).await;
    let told = imported.run(&["import", &file]).await.expect_success();
    assert!(told.contains("rows were imported"), "{told}");
    let refused = imported.run(&["import", &file]).await;
    assert!(!refused.success && refused.stderr.contains("is in use already"), "{refused:?}");
    let imported = imported.started(&github).await;
    assert!(imported.read("team", &anna, &secret).await.is_some());
    assert!(imported.read("main", "", &shown).await.is_some());
    imported.job(&github).await.push(&[&Package::noise("more", 100_000), &shown]).await.unwrap();
    assert!(imported.run(&["verify"]).await.success);

    // And back into a file.
    imported.run(&["export", &file]).await.expect_success();
    drop(imported);
    let back = Installation::with_keys_of(&old, &github, &bucket.configuration()).await;
    back.run(&["import", &file]).await.expect_success();
    let back = back.started(&github).await;
    assert!(back.read("team", &anna, &secret).await.is_some());
    back.job(&github).await.push(&[&Package::noise("less", 100_000), &shown]).await.unwrap();
    drop(back);

    // The objects alone: tokens are lost, and each cache has its own.
    let rebuilt = postgres.database("rebuilt").await;
    let rebuilt = Installation::on_servers(&github, &old, &rebuilt, &bucket).await;
    let told = rebuilt.run(&["rebuild"]).await.expect_success();
    assert!(told.contains("4 paths of 4 pushes came back"), "{told}");
    let refused = rebuilt.run(&["rebuild"]).await;
    assert!(!refused.success && refused.stderr.contains("is in use already"), "{refused:?}");
    let rebuilt = rebuilt.started(&github).await;
    let anna = rebuilt.token("anna", "team").await;
    assert!(rebuilt.read("team", &anna, &secret).await.is_some());
    assert!(rebuilt.read("main", &anna, &secret).await.is_none());
    rebuilt.job(&github).await.push(&[&Package::noise("again", 100_000), &shown]).await.unwrap();
    assert!(rebuilt.read("main", "", &shown).await.is_some());
}
